package com.sluice.peer;

import java.util.Map;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;
import org.apache.kafka.common.serialization.ByteArraySerializer;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.streams.Topology;
import org.apache.kafka.streams.state.KeyValueStore;
import org.apache.kafka.streams.state.StoreBuilder;
import org.apache.kafka.streams.state.Stores;

/** Sources, processors, sinks and, in mode store, the status store with its changelog. */
final class PeerTopology {
    static final String STORE = "status";
    static final String EVENTS = "events";
    static final String DEAD_LETTERS = "dead-letters";
    private static final String ORDERS = "orders";
    private static final String OUTCOMES = "outcomes";
    private static final String DECIDE = "decide";
    private static final String SETTLE = "settle";

    private PeerTopology() {
    }

    static Topology build(Names names, boolean stores, Classifier classifier) {
        Topology topology = new Topology();
        ByteArrayDeserializer bytes = new ByteArrayDeserializer();
        topology.addSource(ORDERS, bytes, bytes, names.orders());
        topology.addProcessor(DECIDE, () -> new OrderProcessor(classifier, stores), ORDERS);
        String[] deciding = {DECIDE};
        if (stores) {
            topology.addSource(OUTCOMES, bytes, bytes, names.outcomes());
            topology.addProcessor(SETTLE, OutcomeProcessor::new, OUTCOMES);
            topology.addStateStore(store(), DECIDE, SETTLE);
            deciding = new String[] {DECIDE, SETTLE};
        }
        for (String carrier : Router.CARRIERS) {
            sink(topology, carrier, names.shipments(carrier), DECIDE);
        }
        sink(topology, EVENTS, names.events(), deciding);
        sink(topology, DEAD_LETTERS, names.deadLetters(), deciding);
        return topology;
    }

    private static void sink(Topology topology, String node, String topic, String... parents) {
        topology.addSink(node, topic, Key.SERIALIZER, new ByteArraySerializer(), Key.PARTITIONER, parents);
    }

    /** Rows are written once and seldom read, so a record cache in front would only cost. */
    private static StoreBuilder<KeyValueStore<byte[], byte[]>> store() {
        var rows = Stores.persistentKeyValueStore(STORE);
        return Stores.keyValueStoreBuilder(rows, Serdes.ByteArray(), Serdes.ByteArray())
            .withCachingDisabled()
            .withLoggingEnabled(Map.of());
    }
}
