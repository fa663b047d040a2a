package com.sluice.peer;

import java.io.BufferedReader;
import java.io.FileInputStream;
import java.io.InputStream;
import java.io.InputStreamReader;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.atomic.AtomicReference;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.NewTopic;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.Producer;
import org.apache.kafka.clients.producer.ProducerConfig;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.errors.TopicExistsException;
import org.apache.kafka.common.serialization.ByteArraySerializer;

/** Makes the topics and fills the input: orders as storefronts would send them, and carriers' answers. */
final class Load {
    private static final Pattern PLACED_AT =
        Pattern.compile("(\"placed_at\":\")\\d{4}-\\d\\d-\\d\\dT\\d\\d:\\d\\d:\\d\\d\\.\\d{3}Z(\")");
    private static final Pattern KEY = Pattern.compile("\"idempotency_key\":\"([!-~&&[^\"\\\\]]+)\"");

    private final Producer<byte[], byte[]> producer;
    private final Identity identity = new Identity();
    private final AtomicReference<Exception> failure = new AtomicReference<>();
    private final String topic;
    private final int partitions;
    private long orders;
    private long bytes;
    private Prepared prepared;

    Load(String brokers, String topic, int partitions) {
        this.topic = topic;
        this.partitions = partitions;
        producer = new KafkaProducer<>(Map.of(
            ProducerConfig.BOOTSTRAP_SERVERS_CONFIG, brokers,
            ProducerConfig.ACKS_CONFIG, "all",
            ProducerConfig.COMPRESSION_TYPE_CONFIG, "lz4",
            ProducerConfig.LINGER_MS_CONFIG, 20,
            ProducerConfig.BATCH_SIZE_CONFIG, 512 << 10,
            ProducerConfig.BUFFER_MEMORY_CONFIG, 128L << 20), new ByteArraySerializer(), new ByteArraySerializer());
    }

    static void run(Options options) throws Exception {
        String brokers = options.required("brokers");
        Names names = new Names(options.required("prefix"));
        int partitions = (int) options.number("partitions", 8);
        createTopics(brokers, names, partitions);
        Load load = new Load(brokers, names.orders(), partitions);
        if (!options.has("from")) {
            load.prepare(options.number("seed", 42));
        }
        long started = System.nanoTime();
        if (options.has("from")) {
            load.file(options.required("from"), options.number("orders", Long.MAX_VALUE), options.has("restamp"));
        } else {
            load.generate(Long.parseLong(options.required("orders").replace("_", "")));
        }
        System.out.println(Json.of(load.finish(started)));
    }

    static void createTopics(String brokers, Names names, int partitions) throws Exception {
        List<NewTopic> topics = new ArrayList<>();
        names.all().forEach(name -> topics.add(new NewTopic(name, partitions, (short) 1)));
        try (Admin admin = Admin.create(Map.of("bootstrap.servers", brokers))) {
            for (var created : admin.createTopics(topics).values().values()) {
                try {
                    created.get();
                } catch (ExecutionException e) {
                    if (!(e.getCause() instanceof TopicExistsException)) {
                        throw e;
                    }
                }
            }
        }
    }

    /** Makes the bodies that {@link #generate} sends, as Sluice's own benchmark does before its clock starts. */
    void prepare(long seed) {
        prepared = new Prepared(seed);
    }

    /** Sends as many orders, each with a key and a time of its own, and waits for nothing. */
    void generate(long count) throws Exception {
        byte[] placedAt = null;
        for (long sequence = 0; sequence < count; sequence++) {
            if (sequence % 1_000 == 0) {
                placedAt = Text.ascii(now());
            }
            send(prepared.key(sequence), prepared.body(sequence, placedAt));
        }
    }

    /**
     * Lines are {@code merchant/key TAB order}, or just an order whose {@code idempotency_key}, if it has one, goes
     * with merchant m-0.
     */
    private void file(String path, long most, boolean restamp) throws Exception {
        try (InputStream in = path.equals("-") ? System.in : new FileInputStream(path);
            BufferedReader lines = new BufferedReader(new InputStreamReader(in, StandardCharsets.UTF_8), 1 << 20)) {
            String placedAt = "";
            for (String line = lines.readLine(); line != null && orders < most; line = lines.readLine()) {
                if (orders % 1_000 == 0) {
                    placedAt = now();
                }
                int tab = line.indexOf('\t');
                String json = line.substring(tab + 1);
                String key = tab >= 0 ? line.substring(0, tab) : keyOf(json);
                send(key, restamp ? PLACED_AT.matcher(json).replaceFirst("$1" + placedAt + "$2") : json);
            }
        }
    }

    private String keyOf(String json) {
        Matcher matcher = KEY.matcher(json);
        return "m-0/" + (matcher.find() ? matcher.group(1) : "bench-" + orders);
    }

    private static String now() {
        return new String(Text.rfc3339(System.currentTimeMillis()), StandardCharsets.US_ASCII);
    }

    private void send(String key, String json) throws Exception {
        send(Text.utf8(key), Text.utf8(json));
    }

    private void send(byte[] key, byte[] value) throws Exception {
        identity.fingerprint(key);
        orders++;
        bytes += value.length;
        // As Sluice's checkout partitions: every order by its slot, so that answers about it find it there.
        send(OrderId.partition(identity.high() & OrderId.SLOTS - 1, partitions), key, value);
    }

    private void send(int partition, byte[] key, byte[] value) throws Exception {
        producer.send(new ProducerRecord<>(topic, partition, key, value), (sent, error) -> {
            if (error != null) {
                failure.compareAndSet(null, error);
            }
        });
        if (failure.get() != null) {
            throw failure.get();
        }
    }

    /** Waits until everything sent is acknowledged. */
    Map<String, Object> finish(long started) throws Exception {
        producer.close();
        if (failure.get() != null) {
            throw failure.get();
        }
        double seconds = (System.nanoTime() - started) / 1e9;
        Map<String, Object> result = new LinkedHashMap<>();
        result.put("loaded", orders);
        result.put("seconds", seconds);
        result.put("per_second", orders / seconds);
        result.put("mean_bytes", orders == 0 ? 0 : (double) bytes / orders);
        return result;
    }

    /** Feeds an acceptance with a tracking number for each shipment. */
    static void settle(Options options) throws Exception {
        String brokers = options.required("brokers");
        Names names = new Names(options.required("prefix"));
        Load load = new Load(brokers, names.outcomes(), 0);
        long started = System.nanoTime();
        ByteWriter out = new ByteWriter();
        for (String carrier : Router.CARRIERS) {
            byte[] id = Text.ascii(carrier);
            TopicReader.read(brokers, names.shipments(carrier), shipment -> {
                byte[] order = shipment.key();
                long lower = OrderId.lowerOf(order);
                int parcel = shipment.value()[3] & 0xff;
                int attempt = shipment.value()[4] & 0xff;
                byte[] tracking = Text.ascii(String.format("LX%09dUS", (lower >>> 1) % 1_000_000_000));
                out.clear();
                new Outcome(OrderId.upperOf(order), lower, parcel, attempt, Outcome.ACCEPTED,
                    System.currentTimeMillis(), id, tracking).encode(out);
                load.orders++;
                load.bytes += out.length();
                load.send(shipment.partition(), order, out.copy());
            });
        }
        System.out.println(Json.of(load.finish(started)));
    }
}
