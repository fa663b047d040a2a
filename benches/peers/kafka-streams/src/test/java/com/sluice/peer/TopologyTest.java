package com.sluice.peer;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;

import com.sluice.events.v1.HandlingGroup;
import com.sluice.events.v1.OrderAccepted;
import com.sluice.events.v1.OrderEvent;
import com.sluice.events.v1.Parcel;
import java.nio.charset.StandardCharsets;
import java.nio.file.Path;
import java.time.Instant;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Properties;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;
import org.apache.kafka.common.serialization.ByteArraySerializer;
import org.apache.kafka.streams.StreamsConfig;
import org.apache.kafka.streams.TestInputTopic;
import org.apache.kafka.streams.TopologyTestDriver;
import org.apache.kafka.streams.test.TestRecord;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

/** The whole topology without a broker, with its store. */
final class TopologyTest {
    private static final Names NAMES = new Names("t");
    private static final Classifier CLASSIFIER = new Classifier();
    private static final String ADDRESS = "{\"name\":\"A. Customer\",\"street\":\"1 Main St\",\"city\":\"Springfield\","
        + "\"postal_code\":\"12345\",\"country\":\"US\"}";
    private static final Instant NOW = Instant.parse("2026-11-11T00:00:01.000Z");

    @TempDir
    private Path folder;
    private TopologyTestDriver driver;
    private TestInputTopic<byte[], byte[]> orders;

    @BeforeEach
    void start() {
        Properties settings = new Properties();
        settings.put(StreamsConfig.APPLICATION_ID_CONFIG, "test");
        settings.put(StreamsConfig.BOOTSTRAP_SERVERS_CONFIG, "none:1");
        settings.put(StreamsConfig.STATE_DIR_CONFIG, folder.toString());
        settings.put(StreamsConfig.ROCKSDB_CONFIG_SETTER_CLASS_CONFIG, RocksSettings.class.getName());
        driver = new TopologyTestDriver(PeerTopology.build(NAMES, true, CLASSIFIER), settings, NOW);
        orders = driver.createInputTopic(NAMES.orders(), new ByteArraySerializer(), new ByteArraySerializer());
    }

    @AfterEach
    void stop() {
        driver.close();
    }

    private static String order(String... lines) {
        return "{\"customer\":\"c-77\",\"placed_at\":\"2026-11-11T00:00:00.123Z\",\"currency\":\"USD\",\"ship_to\":"
            + ADDRESS + ",\"lines\":[" + String.join(",", lines) + "]}";
    }

    private static String line(String sku, String title, int quantity) {
        return "{\"sku\":\"" + sku + "\",\"title\":\"" + title + "\",\"quantity\":" + quantity + ",\"unit_price\":129}";
    }

    private void send(String key, String json) {
        orders.pipeInput(new TestRecord<>(Text.utf8(key), Text.utf8(json), null, NOW));
    }

    private List<TestRecord<byte[], byte[]>> read(String topic) {
        ByteArrayDeserializer bytes = new ByteArrayDeserializer();
        return driver.createOutputTopic(topic, bytes, bytes).readRecordsToList();
    }

    private List<TestRecord<byte[], byte[]>> shipments() {
        List<TestRecord<byte[], byte[]>> all = new ArrayList<>();
        Router.CARRIERS.forEach(carrier -> all.addAll(read(NAMES.shipments(carrier))));
        return all;
    }

    private static String header(TestRecord<byte[], byte[]> record, String name) {
        return new String(record.headers().lastHeader(name).value(), StandardCharsets.UTF_8);
    }

    @Test
    void plainOrder() throws Exception {
        send("m-1/order-1", order(line("1029743", "FLUID MILK WHITE ONLY | 1 GA", 2)));
        TestRecord<byte[], byte[]> record = read(NAMES.events()).get(0);
        OrderEvent event = OrderEvent.parseFrom(record.value());
        assertEquals("1.0", header(record, "ce_specversion"));
        assertEquals("00010000000000000000000000000000", header(record, "ce_id"));
        assertEquals("/sluice", header(record, "ce_source"));
        assertEquals("com.sluice.order.accepted.v1", header(record, "ce_type"));
        assertEquals("2026-11-11T00:00:01.000Z", header(record, "ce_time"));
        assertEquals(event.getOrderId(), header(record, "ce_subject"));
        assertEquals("application/protobuf", header(record, "content-type"));
        assertEquals(event.getOrderId(), new String(record.key(), StandardCharsets.US_ASCII));
        assertEquals("m-1", event.getMerchantId());
        assertEquals(Instant.parse("2026-11-11T00:00:00.123Z").toEpochMilli(), event.getPlacedAtMs());
        OrderAccepted accepted = event.getAccepted();
        assertEquals("c-77", accepted.getCustomerId());
        assertEquals("USD", accepted.getCurrency());
        assertEquals("US", accepted.getCountry());
        assertEquals("1029743", accepted.getLines(0).getSku());
        assertEquals(1, accepted.getParcelCount());
        Parcel parcel = accepted.getParcels(0);
        assertEquals(HandlingGroup.HANDLING_GROUP_CHILLED, parcel.getHandlingGroup());
        assertEquals(2 * 3785, parcel.getWeightG());
        assertTrue(parcel.hasAttempt());
        assertEquals(1, read(NAMES.shipments(parcel.getCarrierId())).size());
        // What is written by hand is what the generated classes would write.
        assertArrayEquals(event.toByteArray(), record.value());
        assertEquals(1, driver.getKeyValueStore(PeerTopology.STORE).approximateNumEntries());
    }

    @Test
    void twoHandlingGroupsAreTwoParcels() throws Exception {
        send("m-1/order-2", order(line("1029743", "MILK", 1), line("X-1", "Frozen pizza, organic", 1)));
        OrderAccepted accepted = OrderEvent.parseFrom(read(NAMES.events()).get(0).value()).getAccepted();
        assertEquals(2, accepted.getParcelCount());
        assertEquals(HandlingGroup.HANDLING_GROUP_FROZEN, accepted.getParcels(1).getHandlingGroup());
        assertEquals(1, accepted.getParcels(1).getItems(0).getLineIndex());
        // One carrier for both, since the customer would rather open the door once.
        assertEquals(accepted.getParcels(0).getCarrierId(), accepted.getParcels(1).getCarrierId());
        assertEquals(2, shipments().size());
    }

    @Test
    void heavyLineIsSpreadOverParcels() throws Exception {
        send("m-1/order-3", order(line("1029743", "MILK", 10)));
        OrderEvent event = OrderEvent.parseFrom(read(NAMES.events()).get(0).value());
        assertEquals(2, event.getAccepted().getParcelCount());
        assertEquals(7, event.getAccepted().getParcels(0).getItems(0).getQuantity());
        assertEquals(3, event.getAccepted().getParcels(1).getItems(0).getQuantity());
    }

    @Test
    void malformedOrderIsDeadLettered() {
        String cut = order(line("1", "x", 1)).substring(0, 200);
        send("m-1/order-4", cut);
        TestRecord<byte[], byte[]> dead = read(NAMES.deadLetters()).get(0);
        assertEquals(cut, new String(dead.value(), StandardCharsets.UTF_8));
        assertTrue(header(dead, "reason").startsWith("the JSON is cut short"));
        assertTrue(read(NAMES.events()).isEmpty());
        assertTrue(shipments().isEmpty());
    }

    @Test
    void orderOfTooManyParcelsHasAnEventAndADeadLetter() throws Exception {
        String[] lines = new String[100];
        Arrays.fill(lines, line("1029743", "MILK", 1000));
        send("m-1/order-5", order(lines));
        OrderAccepted accepted = OrderEvent.parseFrom(read(NAMES.events()).get(0).value()).getAccepted();
        assertEquals("the order needs more than 200 parcels", accepted.getDeadLetterReason());
        assertEquals(1, read(NAMES.deadLetters()).size());
        assertTrue(shipments().isEmpty());
    }

    @Test
    void answersAddRowsAndEvents() throws Exception {
        send("m-1/order-6", order(line("1029743", "MILK", 1)));
        TestRecord<byte[], byte[]> accepted = read(NAMES.events()).get(0);
        long upper = OrderId.upperOf(accepted.key());
        ByteWriter out = new ByteWriter();
        new Outcome(upper, OrderId.lowerOf(accepted.key()), 0, 0, Outcome.ACCEPTED, NOW.toEpochMilli(),
            Text.ascii("swift"), Text.ascii("LX1US")).encode(out);
        var outcomes = driver.createInputTopic(NAMES.outcomes(), new ByteArraySerializer(), new ByteArraySerializer());
        outcomes.pipeInput(accepted.key(), out.copy());
        TestRecord<byte[], byte[]> settled = read(NAMES.events()).get(0);
        OrderEvent event = OrderEvent.parseFrom(settled.value());
        assertArrayEquals(event.toByteArray(), settled.value());
        // Both came from offset 0 of their topics.
        assertEquals("00010000000000000000000000000001", header(settled, "ce_id"));
        assertEquals("m-1", event.getMerchantId());
        assertEquals("LX1US", event.getSettled().getTrackingNumber());
        assertEquals(2, driver.getKeyValueStore(PeerTopology.STORE).approximateNumEntries());
        // An answer about an order that was never seen.
        out.data()[15] ^= 1;
        outcomes.pipeInput(accepted.key(), out.copy());
        assertEquals(1, read(NAMES.deadLetters()).size());
    }
}
