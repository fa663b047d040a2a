package com.sluice.peer;

import java.util.Optional;
import java.util.Set;
import org.apache.kafka.common.serialization.Serializer;
import org.apache.kafka.streams.processor.StreamPartitioner;

/** A record's key and the partition it goes to: the one its order came from, so nothing hashes the key again. */
record Key(byte[] text, Optional<Set<Integer>> partition) {
    static final Serializer<Key> SERIALIZER = (topic, key) -> key.text;
    static final StreamPartitioner<Key, byte[]> PARTITIONER = (topic, key, value, partitions) -> key.partition;
}
