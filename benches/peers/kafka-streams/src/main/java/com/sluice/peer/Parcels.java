package com.sluice.peer;

/**
 * An order's parcels: goods of one handling group share parcels up to the weight that carriers take, first fit in line
 * order, exactly as Sluice splits. Used again for every order.
 */
final class Parcels {
    static final int MAX = 200;
    private static final int END = -1;

    int count;
    final int[] group = new int[MAX];
    final int[] weight = new int[MAX];
    /** Number of the carrier that is asked, or {@link Router#NOBODY}. */
    final int[] carrier = new int[MAX];
    /** Some share is less than its whole line. */
    private final boolean[] partial = new boolean[MAX];
    private final int[] first = new int[MAX];
    private final int[] last = new int[MAX];

    private int shares;
    private final int[] line = new int[MAX * Order.MAX_LINES];
    private final int[] quantity = new int[MAX * Order.MAX_LINES];
    private final int[] next = new int[MAX * Order.MAX_LINES];

    void clear() {
        count = 0;
        shares = 0;
    }

    /** Adds a line; false if the order needs more parcels than it may have. */
    boolean add(int lineGroup, int lineNumber, int unitGrams, int units, int limit) {
        int unit = Math.max(unitGrams, 1);
        long whole = (long) unit * units;
        if (whole > limit) {
            return addOver(lineGroup, lineNumber, unit, units, limit);
        }
        int parcel = 0;
        while (parcel < count && (group[parcel] != lineGroup || limit - weight[parcel] < whole)) {
            parcel++;
        }
        if (parcel == count && !open(lineGroup)) {
            return false;
        }
        put(parcel, lineNumber, units, (int) whole, false);
        return true;
    }

    /** Adds a line that is too heavy for one parcel. */
    private boolean addOver(int lineGroup, int lineNumber, int unit, int units, int limit) {
        int left = units;
        for (int parcel = 0; parcel < count; parcel++) {
            int room = group[parcel] == lineGroup ? Math.max(limit - weight[parcel], 0) / unit : 0;
            int some = Math.min(room, left);
            if (some > 0) {
                put(parcel, lineNumber, some, some * unit, true);
                left -= some;
            }
        }
        while (left > 0) {
            int some = Math.min(Math.max(limit / unit, 1), left);
            if (!open(lineGroup)) {
                return false;
            }
            put(count - 1, lineNumber, some, some * unit, some < units);
            left -= some;
        }
        return true;
    }

    private boolean open(int parcelGroup) {
        if (count == MAX) {
            return false;
        }
        group[count] = parcelGroup;
        weight[count] = 0;
        partial[count] = false;
        first[count] = END;
        count++;
        return true;
    }

    private void put(int parcel, int lineNumber, int units, int grams, boolean part) {
        line[shares] = lineNumber;
        quantity[shares] = units;
        next[shares] = END;
        weight[parcel] += grams;
        partial[parcel] |= part;
        if (first[parcel] == END) {
            first[parcel] = shares;
        } else {
            next[last[parcel]] = shares;
        }
        last[parcel] = shares++;
    }

    /** Writes what is in a parcel as Sluice's records have it: quantities for all items or for none. */
    void encodeItems(int parcel, ByteWriter out) {
        int items = 0;
        for (int share = first[parcel]; share != END; share = next[share]) {
            items++;
        }
        out.varint((long) items << 1 | (partial[parcel] ? 1 : 0));
        for (int share = first[parcel]; share != END; share = next[share]) {
            out.varint(line[share]);
            if (partial[parcel]) {
                out.varint(quantity[share]);
            }
        }
    }

    /** Writes what is in a parcel as field {@code tag} of a Protobuf message. */
    void encodeItemMessages(int parcel, int tag, ByteWriter out) {
        for (int share = first[parcel]; share != END; share = next[share]) {
            out.put(tag << 3 | 2);
            int start = out.open();
            if (line[share] != 0) {
                out.put(1 << 3);
                out.varint(line[share]);
            }
            if (partial[parcel]) {
                out.put(2 << 3);
                out.varint(quantity[share]);
            }
            out.close(start);
        }
    }
}
