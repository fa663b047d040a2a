package com.sluice.peer;

import java.util.Arrays;
import java.util.Optional;
import java.util.Set;
import org.apache.kafka.common.header.Headers;
import org.apache.kafka.common.header.internals.RecordHeaders;
import org.apache.kafka.streams.KeyValue;
import org.apache.kafka.streams.processor.api.Processor;
import org.apache.kafka.streams.processor.api.ProcessorContext;
import org.apache.kafka.streams.processor.api.Record;
import org.apache.kafka.streams.state.KeyValueIterator;
import org.apache.kafka.streams.state.KeyValueStore;

/** A carrier's answer in; a row and an event out. Rows of the order are read to find its merchant. */
final class OutcomeProcessor implements Processor<byte[], byte[], Key, byte[]> {
    private static final int ID_BYTES = 16;
    /** Version, id and fingerprint, before an order record's first number. */
    private static final int RECORD_FIXED = 1 + 16 + 8;

    private final EventWriter events = new EventWriter();
    private final Rows rows = new Rows();
    private ProcessorContext<Key, byte[]> context;
    private KeyValueStore<byte[], byte[]> store;
    private int partition;
    private Optional<Set<Integer>> target;

    @Override
    public void init(ProcessorContext<Key, byte[]> given) {
        context = given;
        store = given.getStateStore(PeerTopology.STORE);
        partition = given.taskId().partition();
        target = Optional.of(Set.of(partition));
    }

    @Override
    public void process(Record<byte[], byte[]> input) {
        long offset = context.recordMetadata().orElseThrow().offset();
        try {
            Outcome outcome = Outcome.decode(input.value());
            byte[] row = firstRow(input.value());
            // Past the deltas and the record's fixed part and time stands the merchant.
            Outcome.Reader reader = new Outcome.Reader(row);
            reader.skip((int) reader.varint());
            reader.skip(RECORD_FIXED);
            reader.signed();
            int merchantLength = (int) reader.varint();
            byte[] id = OrderId.text(outcome.idUpper(), outcome.idLower());
            byte[] event = events.settled(outcome, id, row, reader.position(), merchantLength);
            Headers headers = events.headers(EventWriter.SETTLED, id, partition, offset, outcome.atMs());
            context.forward(new Record<>(new Key(id, target), event, input.timestamp(), headers), PeerTopology.EVENTS);
            byte[] key =
                rows.key(outcome.idUpper(), outcome.idLower(), partition, offset, EventWriter.FROM_OUTCOMES);
            store.put(key, rows.settled(outcome));
        } catch (Unfit e) {
            Headers headers = new RecordHeaders();
            headers.add("reason", Text.utf8(e.getMessage()));
            Key key = new Key(input.key(), target);
            context.forward(new Record<>(key, input.value(), input.timestamp(), headers), PeerTopology.DEAD_LETTERS);
        }
    }

    /** The row of the order's acceptance. */
    private byte[] firstRow(byte[] outcome) throws Unfit {
        byte[] from = Arrays.copyOf(Arrays.copyOf(outcome, ID_BYTES), 2 * ID_BYTES);
        byte[] to = from.clone();
        Arrays.fill(to, ID_BYTES, 2 * ID_BYTES, (byte) 0xff);
        try (KeyValueIterator<byte[], byte[]> found = store.range(from, to)) {
            while (found.hasNext()) {
                KeyValue<byte[], byte[]> row = found.next();
                // Only the row of the acceptance carries the order record behind its deltas.
                Outcome.Reader reader = new Outcome.Reader(row.value);
                if (reader.varint() + reader.position() < row.value.length) {
                    return row.value;
                }
            }
        }
        throw new Unfit("an answer about an unknown order");
    }
}
