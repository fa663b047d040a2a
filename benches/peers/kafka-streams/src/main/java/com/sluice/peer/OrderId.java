package com.sluice.peer;

/** Sluice's order id: placed_at (ms, 48 bits), slot (16), hash (64); shown as the 26 characters of a ULID. */
final class OrderId {
    static final int TEXT_LENGTH = 26;
    static final int SLOTS = 1024;
    private static final byte[] BASE32 = Text.ascii("0123456789ABCDEFGHJKMNPQRSTVWXYZ");
    private static final byte[] VALUES = values();

    private OrderId() {
    }

    private static byte[] values() {
        byte[] values = new byte[128];
        for (int i = 0; i < BASE32.length; i++) {
            values[BASE32[i]] = (byte) i;
        }
        return values;
    }

    /** The upper half of the id; the lower is the fingerprint's lower half. */
    static long upper(long placedAtMs, long fingerprintHigh) {
        return placedAtMs << 16 | fingerprintHigh & SLOTS - 1;
    }

    /** The partition of an order: each has a range of slots. */
    static int partition(long upper, int partitions) {
        return (int) ((upper & 0xffff) * partitions / SLOTS);
    }

    static byte[] text(long upper, long lower) {
        byte[] text = new byte[TEXT_LENGTH];
        // 128 bits in digits of five: the first holds three.
        text[0] = BASE32[(int) (upper >>> 61)];
        for (int i = 1; i <= 12; i++) {
            text[i] = BASE32[(int) (upper >>> 61 - 5 * i) & 31];
        }
        text[13] = BASE32[(int) (upper << 4 & 31 | lower >>> 60)];
        for (int i = 14; i < TEXT_LENGTH; i++) {
            text[i] = BASE32[(int) (lower >>> 5 * (TEXT_LENGTH - 1 - i)) & 31];
        }
        return text;
    }

    /** The upper half of the id that {@link #text} wrote. */
    static long upperOf(byte[] text) {
        long upper = 0;
        for (int i = 0; i <= 12; i++) {
            upper = upper << 5 | VALUES[text[i] & 127];
        }
        return upper << 1 | VALUES[text[13] & 127] >>> 4;
    }

    /** The lower half of the id that {@link #text} wrote. */
    static long lowerOf(byte[] text) {
        long lower = VALUES[text[13] & 127] & 15;
        for (int i = 14; i < TEXT_LENGTH; i++) {
            lower = lower << 5 | VALUES[text[i] & 127];
        }
        return lower;
    }
}
