package com.sluice.peer;

import org.apache.kafka.common.header.Header;
import org.apache.kafka.common.header.Headers;
import org.apache.kafka.common.header.internals.RecordHeader;
import org.apache.kafka.common.header.internals.RecordHeaders;

/**
 * Public events: `sluice.events.v1.OrderEvent` written straight into a buffer, with the headers of CloudEvents. The
 * generated classes would build some twenty objects an order; EventTest reads with them what is written here.
 */
final class EventWriter {
    private static final int EPOCH = 1;
    /** Which input topic an event follows from, where Sluice has the number of the entry in a record. */
    static final int FROM_ORDERS = 0;
    static final int FROM_OUTCOMES = 1;
    private static final int LENGTH = 2;
    private static final Header SPEC_VERSION = new RecordHeader("ce_specversion", Text.ascii("1.0"));
    private static final Header SOURCE = new RecordHeader("ce_source", Text.ascii("/sluice"));
    private static final Header CONTENT_TYPE = new RecordHeader("content-type", Text.ascii("application/protobuf"));
    static final Header ACCEPTED = new RecordHeader("ce_type", Text.ascii("com.sluice.order.accepted.v1"));
    static final Header SETTLED = new RecordHeader("ce_type", Text.ascii("com.sluice.parcel.settled.v1"));

    private final byte[][] carriers = Router.CARRIERS.stream().map(Text::ascii).toArray(byte[][]::new);
    private final ByteWriter out = new ByteWriter();

    /** The upper half of an event's id, which says where its source record lies; the lower is {@link #idLower}. */
    static long idUpper(int partition, long offset) {
        return (long) EPOCH << 48 | (long) partition << 32 | offset >>> 32;
    }

    static long idLower(long offset, int topic) {
        return offset << 32 | topic;
    }

    Headers headers(Header type, byte[] orderId, int partition, long offset, long occurredAtMs) {
        int topic = type == ACCEPTED ? FROM_ORDERS : FROM_OUTCOMES;
        byte[] id = new byte[32];
        Text.hex(id, 0, idUpper(partition, offset));
        Text.hex(id, 16, idLower(offset, topic));
        Header[] headers = {
            SPEC_VERSION, new RecordHeader("ce_id", id), SOURCE, type,
            new RecordHeader("ce_time", Text.rfc3339(occurredAtMs)), new RecordHeader("ce_subject", orderId),
            CONTENT_TYPE,
        };
        return new RecordHeaders(headers);
    }

    /** The event of an order that became {@code parcels}, or none at all for the reason given. */
    byte[] accepted(Order order, byte[] orderId, Parcels parcels, String deadLetter, int rules, long decidedAtMs) {
        int change = start(orderId, order.key, 0, order.merchantLength, order.placedAtMs, order.acceptedAtMs, 10);
        text(1, order.source, order.textAt[Order.CUSTOMER], order.textLength[Order.CUSTOMER]);
        text(2, order.source, order.textAt[Order.CURRENCY], order.textLength[Order.CURRENCY]);
        text(3, order.source, order.textAt[Order.COUNTRY], order.textLength[Order.COUNTRY]);
        for (int line = 0; line < order.lines; line++) {
            int start = open(4);
            text(1, order.source, order.skuAt[line], order.skuLength[line]);
            number(2, order.quantity[line]);
            if (order.unitPrice[line] != 0) {
                number(3, order.unitPrice[line]);
            }
            out.close(start);
        }
        number(5, rules);
        if (deadLetter == null) {
            number(6, parcels.count);
            for (int parcel = 0; parcel < parcels.count; parcel++) {
                parcel(parcels, parcel);
            }
        } else {
            text(8, Text.utf8(deadLetter));
        }
        number(9, decidedAtMs);
        out.close(change);
        return out.copy();
    }

    private void parcel(Parcels parcels, int parcel) {
        int start = open(7);
        if (parcel != 0) {
            number(1, parcel);
        }
        number(2, parcels.group[parcel] + 1);
        number(3, parcels.weight[parcel]);
        parcels.encodeItemMessages(parcel, 4, out);
        if (parcels.carrier[parcel] == Router.NOBODY) {
            text(7, Text.ascii(Router.whyNobody(parcels.group[parcel], parcels.weight[parcel])));
        } else {
            text(5, carriers[parcels.carrier[parcel]]);
            number(6, 0);
        }
        out.close(start);
    }

    /** The event of an attempt that has its outcome. */
    byte[] settled(Outcome outcome, byte[] orderId, byte[] record, int merchantAt, int merchantLength) {
        int change = start(orderId, record, merchantAt, merchantLength, outcome.placedAtMs(), outcome.atMs(), 11);
        if (outcome.parcel() != 0) {
            number(1, outcome.parcel());
        }
        if (outcome.attempt() != 0) {
            number(2, outcome.attempt());
        }
        number(3, outcome.kind() + 1);
        text(4, outcome.carrier());
        if (outcome.text().length != 0) {
            text(outcome.kind() == Outcome.ACCEPTED ? 5 : 6, outcome.text());
        }
        out.close(change);
        return out.copy();
    }

    private int start(byte[] orderId, byte[] merchant, int merchantAt, int merchantLength, long placedAtMs,
        long occurredAtMs, int change) {
        out.clear();
        text(1, orderId);
        text(2, merchant, merchantAt, merchantLength);
        number(3, placedAtMs);
        number(4, occurredAtMs);
        return open(change);
    }

    private int open(int tag) {
        out.put(tag << 3 | LENGTH);
        return out.open();
    }

    private void number(int tag, long value) {
        out.put(tag << 3);
        out.varint(value);
    }

    private void text(int tag, byte[] text) {
        text(tag, text, 0, text.length);
    }

    private void text(int tag, byte[] source, int at, int length) {
        if (length != 0) {
            out.put(tag << 3 | LENGTH);
            out.bytes(source, at, length);
        }
    }
}
