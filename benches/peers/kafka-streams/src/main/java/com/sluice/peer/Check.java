package com.sluice.peer;

import com.sluice.events.v1.OrderAccepted;
import com.sluice.events.v1.OrderEvent;
import com.sluice.events.v1.Parcel;
import java.nio.charset.StandardCharsets;
import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.Map;
import org.apache.kafka.clients.consumer.ConsumerRecord;

/** Reads all that is committed and says whether every order has its event and every parcel its shipment, each once. */
final class Check {
    private final Identity identity = new Identity();
    /** Ids' lower halves. */
    private final LongList orders = new LongList();
    private final LongList malformed = new LongList();
    private final LongList accepted = new LongList();
    /** Orders and parcel numbers. */
    private final LongList routed = new LongList();
    private final LongList shipped = new LongList();
    private final LongList eventIds = new LongList();
    private long deadParcels;
    private long settled;
    private long wrongHeaders;
    private final int[] byCarrier = new int[Router.CARRIERS.size()];

    private Check() {
    }

    static boolean run(Options options) throws Exception {
        String brokers = options.required("brokers");
        Names names = new Names(options.required("prefix"));
        Check check = new Check();
        TopicReader.read(brokers, names.orders(), order -> check.orders.add(check.fingerprint(order.key())));
        TopicReader.read(brokers, names.deadLetters(), check::deadLetter);
        TopicReader.read(brokers, names.events(), check::event);
        for (int carrier = 0; carrier < check.byCarrier.length; carrier++) {
            int number = carrier;
            TopicReader.read(brokers, names.shipments(Router.CARRIERS.get(carrier)), shipment -> {
                check.byCarrier[number]++;
                check.shipped.add(parcel(OrderId.lowerOf(shipment.key()), shipment.value()[3], number));
            });
        }
        return check.judge();
    }

    private long fingerprint(byte[] key) {
        try {
            identity.fingerprint(key);
            return identity.low();
        } catch (Unfit e) {
            return 0;
        }
    }

    /** One number for a parcel and who was asked; two fall together with odds of one in 2⁶⁴. */
    private static long parcel(long order, int number, int carrier) {
        return order ^ ((number & 0xffL) << 8 | carrier + 1L) * 0x9e3779b97f4a7c15L;
    }

    private void deadLetter(ConsumerRecord<byte[], byte[]> record) {
        // What couldn't be read stands under the key it came with, which has a slash; ids have none.
        if (new String(record.key(), StandardCharsets.UTF_8).indexOf('/') >= 0) {
            malformed.add(fingerprint(record.key()));
        }
    }

    private void event(ConsumerRecord<byte[], byte[]> record) throws Exception {
        OrderEvent event = OrderEvent.parseFrom(record.value());
        byte[] subject = record.headers().lastHeader("ce_subject").value();
        boolean seven = record.headers().toArray().length == 7;
        boolean named = Arrays.equals(subject, record.key()) && Arrays.equals(subject, Text.ascii(event.getOrderId()));
        if (!seven || !named) {
            wrongHeaders++;
        }
        String id = new String(record.headers().lastHeader("ce_id").value(), StandardCharsets.US_ASCII);
        // Partition and offset fit beside each other: 16 bits of one, 40 of the other, and which topic it was.
        long place = Long.parseUnsignedLong(id.substring(16), 16);
        eventIds.add(Long.parseLong(id.substring(4, 8), 16) << 48 ^ place >>> 32 << 1 ^ place & 1);
        if (!event.hasAccepted()) {
            settled++;
            return;
        }
        long order = OrderId.lowerOf(record.key());
        accepted.add(order);
        OrderAccepted decision = event.getAccepted();
        for (Parcel parcel : decision.getParcelsList()) {
            if (parcel.hasCarrierId()) {
                int carrier = Router.CARRIERS.indexOf(parcel.getCarrierId());
                routed.add(parcel(order, parcel.getNumber(), carrier));
            } else {
                deadParcels++;
            }
        }
    }

    private boolean judge() {
        LongList known = new LongList();
        for (LongList list : new LongList[] {accepted, malformed}) {
            for (long id : list.sorted()) {
                known.add(id);
            }
        }
        long[] all = orders.sorted();
        long[] shipments = shipped.sorted();
        boolean eventEach = Arrays.equals(all, known.sorted()) && LongList.repeats(all) == 0;
        boolean shipmentEach = Arrays.equals(routed.sorted(), shipments) && LongList.repeats(shipments) == 0;
        boolean idEach = LongList.repeats(eventIds.sorted()) == 0;
        boolean good = eventEach && shipmentEach && idEach && wrongHeaders == 0;
        Map<String, Object> result = new LinkedHashMap<>();
        result.put("good", good);
        result.put("orders", orders.size());
        result.put("malformed", malformed.size());
        result.put("accepted_events", accepted.size());
        result.put("settled_events", settled);
        result.put("events_with_wrong_headers", wrongHeaders);
        result.put("event_ids_unique", idEach);
        result.put("one_event_an_order", eventEach);
        result.put("parcels_routed", routed.size());
        result.put("parcels_nobody_takes", deadParcels);
        result.put("shipments", shipped.size());
        result.put("one_shipment_a_parcel", shipmentEach);
        for (int carrier = 0; carrier < byCarrier.length; carrier++) {
            result.put("shipments_" + Router.CARRIERS.get(carrier), byCarrier[carrier]);
        }
        System.out.println(Json.of(result));
        return good;
    }
}
