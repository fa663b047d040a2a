package com.sluice.peer;

import java.util.Arrays;

/** A carrier's answer about one shipment, in Sluice's encoding. */
record Outcome(long idUpper, long idLower, int parcel, int attempt, int kind, long atMs, byte[] carrier, byte[] text) {
    static final int ACCEPTED = 3;

    /** Reads an answer. */
    static Outcome decode(byte[] bytes) throws Unfit {
        try {
            Reader reader = new Reader(bytes);
            long upper = reader.bigEndian();
            long lower = reader.bigEndian();
            int parcel = reader.next();
            int attempt = reader.next();
            int kind = reader.next();
            if (kind > ACCEPTED) {
                throw new Unfit("no outcome kind: " + kind);
            }
            long at = (upper >>> 16) + reader.signed();
            return new Outcome(upper, lower, parcel, attempt, kind, at, reader.bytes(), reader.bytes());
        } catch (ArrayIndexOutOfBoundsException | NullPointerException e) {
            throw new Unfit("a carrier's answer is cut short");
        }
    }

    long placedAtMs() {
        return idUpper >>> 16;
    }

    void encode(ByteWriter out) {
        out.putLong(idUpper);
        out.putLong(idLower);
        out.put(parcel);
        out.put(attempt);
        out.put(kind);
        out.signed(atMs - placedAtMs());
        out.bytes(carrier);
        out.bytes(text);
    }

    /** A cursor over encoded bytes; reading beyond the end throws ArrayIndexOutOfBoundsException. */
    static final class Reader {
        private final byte[] in;
        private int at;

        Reader(byte[] in) {
            this.in = in;
        }

        int position() {
            return at;
        }

        void skip(int count) {
            at += count;
        }

        int next() {
            return in[at++] & 0xff;
        }

        long bigEndian() {
            long value = 0;
            for (int i = 0; i < 8; i++) {
                value = value << 8 | next();
            }
            return value;
        }

        long varint() {
            long value = 0;
            for (int shift = 0;; shift += 7) {
                int next = next();
                value |= (next & 0x7fL) << shift;
                if (next < 0x80) {
                    return value;
                }
            }
        }

        long signed() {
            long value = varint();
            return value >>> 1 ^ -(value & 1);
        }

        byte[] bytes() {
            int length = (int) varint();
            if (length < 0 || length > in.length - at) {
                throw new ArrayIndexOutOfBoundsException(length);
            }
            at += length;
            return Arrays.copyOfRange(in, at - length, at);
        }
    }
}
