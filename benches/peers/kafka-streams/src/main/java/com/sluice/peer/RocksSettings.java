package com.sluice.peer;

import java.util.Map;
import org.apache.kafka.streams.state.RocksDBConfigSetter;
import org.rocksdb.BlockBasedTableConfig;
import org.rocksdb.BloomFilter;
import org.rocksdb.Cache;
import org.rocksdb.CompactionStyle;
import org.rocksdb.CompressionType;
import org.rocksdb.Filter;
import org.rocksdb.LRUCache;
import org.rocksdb.Options;
import org.rocksdb.WriteBufferManager;

/** RocksDB for rows that are written once, nearly in the order of their keys; the README has the reasons. */
public final class RocksSettings implements RocksDBConfigSetter {
    private static final long MIB = 1 << 20;
    private static final long CACHE_BYTES = 256 * MIB;
    private static final long WRITE_BUFFERS_BYTES = 192 * MIB;
    private static final long WRITE_BUFFER_BYTES = 32 * MIB;
    private static final int BLOCK_BYTES = 16 << 10;
    private static final int BACKGROUND_JOBS = 2;

    /** One cache for the stores of all partitions, so that memory doesn't grow with their number. */
    private static final class Shared {
        private static final Cache CACHE = new LRUCache(CACHE_BYTES);
        private static final WriteBufferManager BUFFERS = new WriteBufferManager(WRITE_BUFFERS_BYTES, CACHE);
        private static final Filter FILTER = new BloomFilter(10);

        private Shared() {
        }
    }

    /** Called by Kafka Streams. */
    public RocksSettings() {
    }

    @Override
    public void setConfig(String storeName, Options options, Map<String, Object> configs) {
        BlockBasedTableConfig table = (BlockBasedTableConfig) options.tableFormatConfig();
        table.setBlockCache(Shared.CACHE);
        table.setFilterPolicy(Shared.FILTER);
        table.setBlockSize(BLOCK_BYTES);
        table.setCacheIndexAndFilterBlocks(true);
        table.setPinTopLevelIndexAndFilter(true);
        options.setTableFormatConfig(table);
        options.setWriteBufferManager(Shared.BUFFERS);
        options.setWriteBufferSize(WRITE_BUFFER_BYTES);
        options.setMaxWriteBufferNumber(4);
        options.setMaxBackgroundJobs(BACKGROUND_JOBS);
        options.setCompressionType(CompressionType.LZ4_COMPRESSION);
        options.setCompactionStyle(CompactionStyle.LEVEL);
        options.setLevel0FileNumCompactionTrigger(8);
    }

    @Override
    public void close(String storeName, Options options) {
        // What all stores share lives as long as the process.
    }
}
