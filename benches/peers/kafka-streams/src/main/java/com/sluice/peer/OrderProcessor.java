package com.sluice.peer;

import java.util.Optional;
import java.util.Set;
import org.apache.kafka.common.header.Headers;
import org.apache.kafka.common.header.internals.RecordHeaders;
import org.apache.kafka.streams.processor.api.Processor;
import org.apache.kafka.streams.processor.api.ProcessorContext;
import org.apache.kafka.streams.processor.api.Record;
import org.apache.kafka.streams.state.KeyValueStore;

/** One order in; its shipments, its event and, with a store, its row out. */
final class OrderProcessor implements Processor<byte[], byte[], Key, byte[]> {
    /** Head of Sluice's shipment records: version 1, epoch 1. */
    private static final byte[] FRAME_HEAD = {1, 1, 0};

    private final boolean stores;
    private final Decider decider;
    private final EventWriter events = new EventWriter();
    private final Rows rows = new Rows();
    private final ByteWriter record = new ByteWriter();
    private final ByteWriter shipment = new ByteWriter();
    private final String[] carriers = Router.CARRIERS.toArray(String[]::new);
    private ProcessorContext<Key, byte[]> context;
    private KeyValueStore<byte[], byte[]> store;
    private int partition;
    private Optional<Set<Integer>> target;

    OrderProcessor(Classifier classifier, boolean stores) {
        this.stores = stores;
        decider = new Decider(classifier);
    }

    @Override
    public void init(ProcessorContext<Key, byte[]> given) {
        context = given;
        store = stores ? given.getStateStore(PeerTopology.STORE) : null;
        partition = given.taskId().partition();
        target = Optional.of(Set.of(partition));
    }

    @Override
    public void process(Record<byte[], byte[]> input) {
        long offset = context.recordMetadata().orElseThrow().offset();
        try {
            decider.decide(input.key(), input.value(), input.timestamp());
        } catch (Unfit e) {
            deadLetter(input.key(), e.getMessage(), input.value(), input.timestamp());
            return;
        }
        Order order = decider.order;
        Parcels parcels = decider.parcels;
        byte[] id = OrderId.text(order.idUpper, order.idLower);
        Key key = new Key(id, target);
        long now = context.currentSystemTimeMs();
        record.clear();
        order.encode(record);
        for (int parcel = 0; parcel < parcels.count; parcel++) {
            if (parcels.carrier[parcel] == Router.NOBODY) {
                String reason = Router.whyNobody(parcels.group[parcel], parcels.weight[parcel]);
                deadLetter(id, reason, record.copy(), input.timestamp());
            } else {
                byte[] value = shipment(parcels, parcel);
                context.forward(new Record<>(key, value, input.timestamp()), carriers[parcels.carrier[parcel]]);
            }
        }
        if (decider.deadLetter != null) {
            deadLetter(id, decider.deadLetter, record.copy(), input.timestamp());
        }
        byte[] event = events.accepted(order, id, parcels, decider.deadLetter, decider.rulesVersion(), now);
        Headers headers = events.headers(EventWriter.ACCEPTED, id, partition, offset, order.acceptedAtMs);
        context.forward(new Record<>(key, event, input.timestamp(), headers), PeerTopology.EVENTS);
        if (stores) {
            byte[] row = rows.accepted(decider, record, partition, offset, now);
            store.put(rows.key(order.idUpper, order.idLower, partition, offset, EventWriter.FROM_ORDERS), row);
        }
    }

    /** A shipment as Sluice frames it, alone in its record. */
    private byte[] shipment(Parcels parcels, int parcel) {
        shipment.clear();
        shipment.put(FRAME_HEAD);
        shipment.put(parcel);
        shipment.put(0);
        shipment.put(parcels.group[parcel]);
        shipment.varint(parcels.weight[parcel]);
        parcels.encodeItems(parcel, shipment);
        shipment.bytes(record.data(), 0, record.length());
        return shipment.copy();
    }

    private void deadLetter(byte[] key, String reason, byte[] value, long timestamp) {
        Headers headers = new RecordHeaders();
        headers.add("order_id", key);
        headers.add("rules_version", Text.ascii(Integer.toString(decider.rulesVersion())));
        headers.add("reason", Text.utf8(reason));
        context.forward(new Record<>(new Key(key, target), value, timestamp, headers), PeerTopology.DEAD_LETTERS);
    }
}
