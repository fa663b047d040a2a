package com.sluice.peer;

import com.sun.management.OperatingSystemMXBean;
import java.io.IOException;
import java.lang.management.GarbageCollectorMXBean;
import java.lang.management.ManagementFactory;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicReference;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.OffsetSpec;
import org.apache.kafka.clients.consumer.ConsumerConfig;
import org.apache.kafka.clients.consumer.OffsetAndMetadata;
import org.apache.kafka.clients.producer.ProducerConfig;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.errors.GroupIdNotFoundException;
import org.apache.kafka.streams.KafkaStreams;
import org.apache.kafka.streams.StreamsConfig;
import org.apache.kafka.streams.errors.StreamsUncaughtExceptionHandler.StreamThreadExceptionResponse;

/**
 * One measured run: from the first poll until everything that stood in the input at the start is committed; or, with
 * {@code --ingest}, from the first order sent to the input until as many are committed.
 */
final class Run {
    private static final OperatingSystemMXBean SYSTEM =
        (OperatingSystemMXBean) ManagementFactory.getOperatingSystemMXBean();
    /** Bounds of the time between two looks at the committed offsets, ms: asking costs CPU, yet the end is exact. */
    private static final long SHORTEST_MS = 10;
    private static final long LONGEST_MS = 500;

    private final Options options;
    private final boolean stores;
    private final Names names;
    private final Properties settings = new Properties();
    private final CountDownLatch running = new CountDownLatch(1);
    private final AtomicReference<Throwable> failure = new AtomicReference<>();

    private Run(Options options, boolean stores) {
        this.options = options;
        this.stores = stores;
        names = new Names(options.required("prefix"));
    }

    static void run(Options options) throws Exception {
        String mode = options.required("mode");
        if (!mode.equals("stateless") && !mode.equals("store")) {
            throw new IllegalArgumentException("--mode is stateless or store, not " + mode);
        }
        Path folder = Files.createTempDirectory(Path.of(options.text("state-dir", "/tmp")), "kafka-streams-peer-");
        try {
            System.out.println(Json.of(new Run(options, mode.equals("store")).measure(mode, folder)));
        } finally {
            delete(folder);
        }
    }

    private static void delete(Path path) throws IOException {
        if (Files.isDirectory(path)) {
            List<Path> children;
            try (var listed = Files.list(path)) {
                children = listed.toList();
            }
            for (Path child : children) {
                delete(child);
            }
        }
        Files.deleteIfExists(path);
    }

    /** Every setting that departs from the defaults; the README says why. */
    private void settings(String mode, Path folder) {
        String commit = options.text("commit-interval-ms", "100");
        settings.put(StreamsConfig.APPLICATION_ID_CONFIG,
            options.text("application-id", names.prefix() + ".streams-" + mode));
        settings.put(StreamsConfig.BOOTSTRAP_SERVERS_CONFIG, options.required("brokers"));
        settings.put(StreamsConfig.STATE_DIR_CONFIG, folder.toString());
        settings.put(StreamsConfig.PROCESSING_GUARANTEE_CONFIG, StreamsConfig.EXACTLY_ONCE_V2);
        settings.put(StreamsConfig.NUM_STREAM_THREADS_CONFIG, options.text("threads", "2"));
        settings.put(StreamsConfig.COMMIT_INTERVAL_MS_CONFIG, commit);
        settings.put(StreamsConfig.TOPOLOGY_OPTIMIZATION_CONFIG, StreamsConfig.OPTIMIZE);
        settings.put(StreamsConfig.STATESTORE_CACHE_MAX_BYTES_CONFIG, "0");
        settings.put(StreamsConfig.MAX_TASK_IDLE_MS_CONFIG, "-1");
        settings.put(StreamsConfig.ROCKSDB_CONFIG_SETTER_CLASS_CONFIG, RocksSettings.class.getName());
        consumer(ConsumerConfig.AUTO_OFFSET_RESET_CONFIG, "earliest");
        // A member that goes without a word would keep the next run waiting for its session to end.
        consumer("internal.leave.group.on.close", "true");
        consumer(ConsumerConfig.MAX_PARTITION_FETCH_BYTES_CONFIG, "4194304");
        consumer(ConsumerConfig.FETCH_MIN_BYTES_CONFIG, "65536");
        consumer(ConsumerConfig.FETCH_MAX_WAIT_MS_CONFIG, "20");
        consumer(ConsumerConfig.RECEIVE_BUFFER_CONFIG, "1048576");
        consumer(ConsumerConfig.CHECK_CRCS_CONFIG, "false");
        producer(ProducerConfig.COMPRESSION_TYPE_CONFIG, "lz4");
        producer(ProducerConfig.ACKS_CONFIG, "all");
        producer(ProducerConfig.LINGER_MS_CONFIG, commit);
        producer(ProducerConfig.BATCH_SIZE_CONFIG, "262144");
        producer(ProducerConfig.BUFFER_MEMORY_CONFIG, "134217728");
        producer(ProducerConfig.SEND_BUFFER_CONFIG, "1048576");
        settings.putAll(options.settings());
    }

    private void consumer(String key, String value) {
        settings.put(StreamsConfig.consumerPrefix(key), value);
    }

    private void producer(String key, String value) {
        settings.put(StreamsConfig.producerPrefix(key), value);
    }

    private Map<String, Object> measure(String mode, Path folder) throws Exception {
        settings(mode, folder);
        Classifier classifier = new Classifier();
        KafkaStreams streams = new KafkaStreams(PeerTopology.build(names, stores, classifier), settings);
        streams.setUncaughtExceptionHandler(error -> {
            failure.compareAndSet(null, error);
            return StreamThreadExceptionResponse.SHUTDOWN_CLIENT;
        });
        streams.setStateListener((now, before) -> {
            if (now == KafkaStreams.State.RUNNING || now == KafkaStreams.State.ERROR) {
                running.countDown();
            }
        });
        long ingested = options.number("ingest", 0);
        Load load = ingested == 0 ? null : ingest();
        try (Admin admin = Admin.create(Map.of("bootstrap.servers", options.required("brokers")))) {
            Map<TopicPartition, Long> ends = ends(admin);
            Map<TopicPartition, Long> begins = committed(admin);
            long starting = System.nanoTime();
            streams.start();
            if (!running.await(60, TimeUnit.SECONDS)) {
                throw new IllegalStateException("the application does not start");
            }
            long first = System.nanoTime();
            long cpu = SYSTEM.getProcessCpuTime();
            long inputs = missing(begins, ends) + ingested;
            long left = inputs;
            Thread sender = load == null ? null : send(load, ingested, first);
            while (left > 0) {
                if (failure.get() != null) {
                    throw new IllegalStateException("the application has failed", failure.get());
                }
                long passedMs = (System.nanoTime() - first) / 1_000_000;
                // A quarter of the time that what is left takes at the pace so far.
                long wait = passedMs * left / Math.max(inputs - left, 1) / 4;
                Thread.sleep(Math.max(SHORTEST_MS, Math.min(LONGEST_MS, wait)));
                if (sender != null && !sender.isAlive()) {
                    ends = ends(admin);
                    sender = null;
                }
                if (sender == null) {
                    left = missing(committed(admin), ends);
                }
            }
            long last = System.nanoTime();
            return report(mode, inputs, (first - starting) / 1e9, (last - first) / 1e9,
                (SYSTEM.getProcessCpuTime() - cpu) / 1e9);
        } finally {
            streams.close(Duration.ofSeconds(30));
        }
    }

    /** What fills an empty input while it is read. */
    private Load ingest() throws Exception {
        String brokers = options.required("brokers");
        int partitions = (int) options.number("partitions", 8);
        Load.createTopics(brokers, names, partitions);
        Load load = new Load(brokers, names.orders(), partitions);
        load.prepare(options.number("seed", 42));
        return load;
    }

    private Thread send(Load load, long orders, long started) {
        Thread sender = new Thread(() -> {
            try {
                load.generate(orders);
                load.finish(started);
            } catch (Exception e) {
                failure.compareAndSet(null, e);
            }
        }, "storefronts");
        sender.start();
        return sender;
    }

    private Map<TopicPartition, Long> ends(Admin admin) throws Exception {
        List<String> topics = new ArrayList<>(List.of(names.orders()));
        if (stores) {
            topics.add(names.outcomes());
        }
        Map<TopicPartition, OffsetSpec> wanted = new LinkedHashMap<>();
        for (var topic : admin.describeTopics(topics).allTopicNames().get().values()) {
            topic.partitions().forEach(
                p -> wanted.put(new TopicPartition(topic.name(), p.partition()), OffsetSpec.latest()));
        }
        Map<TopicPartition, Long> ends = new LinkedHashMap<>();
        admin.listOffsets(wanted).all().get().forEach((partition, end) -> ends.put(partition, end.offset()));
        return ends;
    }

    private Map<TopicPartition, Long> committed(Admin admin) throws Exception {
        String group = settings.getProperty(StreamsConfig.APPLICATION_ID_CONFIG);
        Map<TopicPartition, Long> committed = new LinkedHashMap<>();
        try {
            Map<TopicPartition, OffsetAndMetadata> all =
                admin.listConsumerGroupOffsets(group).partitionsToOffsetAndMetadata().get();
            all.forEach((partition, at) -> committed.put(partition, at == null ? 0 : at.offset()));
        } catch (ExecutionException e) {
            if (!(e.getCause() instanceof GroupIdNotFoundException)) {
                throw e;
            }
        }
        return committed;
    }

    /** Records below the end that aren't committed. */
    private static long missing(Map<TopicPartition, Long> committed, Map<TopicPartition, Long> ends) {
        return ends.entrySet().stream()
            .mapToLong(end -> Math.max(0, end.getValue() - committed.getOrDefault(end.getKey(), 0L))).sum();
    }

    private Map<String, Object> report(String mode, long inputs, double start, double seconds, double cpu)
        throws IOException {
        Map<String, Object> result = new LinkedHashMap<>();
        result.put("peer", "kafka-streams");
        result.put("mode", mode);
        result.put("orders", inputs);
        result.put("seconds", seconds);
        result.put("orders_per_second", inputs / seconds);
        result.put("start_seconds", start);
        result.put("cpu_seconds", cpu);
        result.put("cpu_us_per_order", cpu * 1e6 / inputs);
        result.put("process_cpu_seconds", SYSTEM.getProcessCpuTime() / 1e9);
        result.put("max_rss_bytes", maxRss());
        result.put("heap_max_bytes", Runtime.getRuntime().maxMemory());
        long gcMs = 0;
        long collections = 0;
        for (GarbageCollectorMXBean gc : ManagementFactory.getGarbageCollectorMXBeans()) {
            gcMs += gc.getCollectionTime();
            collections += gc.getCollectionCount();
        }
        result.put("gc_seconds", gcMs / 1e3);
        result.put("gc_collections", collections);
        result.put("java", System.getProperty("java.version"));
        result.put("java_flags", String.join(" ", ManagementFactory.getRuntimeMXBean().getInputArguments()));
        Map<String, Object> shown = new LinkedHashMap<>();
        settings.stringPropertyNames().stream().sorted()
            .filter(key -> !key.equals(StreamsConfig.BOOTSTRAP_SERVERS_CONFIG) && !key.equals("state.dir"))
            .forEach(key -> shown.put(key, settings.getProperty(key)));
        result.put("settings", shown);
        return result;
    }

    private static long maxRss() throws IOException {
        return Files.readAllLines(Path.of("/proc/self/status")).stream()
            .filter(line -> line.startsWith("VmHWM:"))
            .mapToLong(line -> Long.parseLong(line.replaceAll("\\D", "")) * 1024).findFirst().orElse(0);
    }
}
