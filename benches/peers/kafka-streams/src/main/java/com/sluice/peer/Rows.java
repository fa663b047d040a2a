package com.sluice.peer;

/**
 * Status rows as Sluice keeps them, here in RocksDB: one for each event of an order, never updated. Key: order id and
 * event id, 16 bytes each, big endian. Value: length and bytes of the deltas, then the order record in the row of the
 * event that accepted the order.
 */
final class Rows {
    private static final int ACCEPTED = 1;
    private static final int CLASSIFIED = 2;
    private static final int REQUESTED = 3;
    private static final int SETTLED = 4;
    private static final int DEAD_LETTERED = 5;
    private static final int PACKED = 6;

    private final byte[][] carriers = Router.CARRIERS.stream().map(Text::ascii).toArray(byte[][]::new);
    private final ByteWriter deltas = new ByteWriter();
    private final ByteWriter out = new ByteWriter();

    byte[] key(long idUpper, long idLower, int partition, long offset, int topic) {
        out.clear();
        out.putLong(idUpper);
        out.putLong(idLower);
        out.putLong(EventWriter.idUpper(partition, offset));
        out.putLong(EventWriter.idLower(offset, topic));
        return out.copy();
    }

    /** The row of an order's acceptance. */
    byte[] accepted(Decider decider, ByteWriter record, int partition, long offset, long decidedAtMs) {
        Order order = decider.order;
        long late = decidedAtMs - order.placedAtMs;
        deltas.clear();
        head(ACCEPTED, order.acceptedAtMs - order.placedAtMs);
        deltas.varint((long) partition << 54 | offset << 14);
        if (decider.deadLetter == null) {
            head(CLASSIFIED, late);
            deltas.put(decider.parcels.count);
            deltas.varint(decider.rulesVersion());
            for (int parcel = 0; parcel < decider.parcels.count; parcel++) {
                parcel(decider, parcel, late);
            }
        } else {
            deadLettered(0, late, decider.rulesVersion(), decider.deadLetter);
        }
        out.clear();
        out.bytes(deltas.data(), 0, deltas.length());
        out.put(record.data(), 0, record.length());
        return out.copy();
    }

    private void parcel(Decider decider, int parcel, long late) {
        Parcels parcels = decider.parcels;
        int carrier = parcels.carrier[parcel];
        head(carrier == Router.NOBODY ? PACKED : REQUESTED, late);
        deltas.put(parcel);
        if (carrier != Router.NOBODY) {
            deltas.put(0);
        }
        deltas.put(parcels.group[parcel]);
        if (carrier != Router.NOBODY) {
            deltas.bytes(carriers[carrier]);
        }
        deltas.varint(parcels.weight[parcel]);
        parcels.encodeItems(parcel, deltas);
        if (carrier == Router.NOBODY) {
            String reason = Router.whyNobody(parcels.group[parcel], parcels.weight[parcel]);
            deadLettered(parcel + 1, late, decider.rulesVersion(), reason);
        } else {
            deltas.varint(0);
        }
    }

    private void deadLettered(int parcel, long late, int rules, String reason) {
        head(DEAD_LETTERED, late);
        deltas.put(parcel);
        deltas.varint(rules);
        deltas.bytes(Text.utf8(reason));
    }

    private void head(int tag, long late) {
        deltas.put(tag);
        deltas.signed(late);
    }

    /** The row of an attempt's outcome. */
    byte[] settled(Outcome outcome) {
        deltas.clear();
        head(SETTLED, outcome.atMs() - outcome.placedAtMs());
        deltas.put(outcome.parcel());
        deltas.put(outcome.attempt());
        deltas.put(outcome.kind());
        deltas.bytes(outcome.text());
        out.clear();
        out.bytes(deltas.data(), 0, deltas.length());
        return out.copy();
    }
}
