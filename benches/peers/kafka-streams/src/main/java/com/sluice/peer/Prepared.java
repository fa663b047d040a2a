package com.sluice.peer;

import java.util.Arrays;

/** Orders of two lines made beforehand; each is sent under many keys, stamped with the time. */
final class Prepared {
    private static final int BODIES = 20_000;
    /** As long as every time. */
    private static final String STAMP = "1970-01-01T00:00:00.000Z";
    private static final int DIGITS = 12;

    private final byte[][] bodies = new byte[BODIES][];
    private final int[] stampAt = new int[BODIES];
    private final byte[][] keys = new byte[BODIES][];

    Prepared(long seed) {
        Baskets baskets = new Baskets(new Catalogue());
        for (int i = 0; i < BODIES; i++) {
            Baskets.Body body = baskets.twoLines(i, seed, STAMP);
            bodies[i] = Text.utf8(body.json());
            // What stands before it is ASCII.
            stampAt[i] = body.json().indexOf(STAMP);
            keys[i] = Text.utf8(body.merchant() + "/bench-" + "0".repeat(DIGITS));
        }
    }

    /** The key of this order: merchant and idempotency key. */
    byte[] key(long sequence) {
        byte[] of = keys[(int) (sequence % BODIES)];
        byte[] key = Arrays.copyOf(of, of.length);
        long rest = sequence;
        for (int at = key.length - 1; rest > 0; at--, rest /= 10) {
            key[at] = (byte) ('0' + rest % 10);
        }
        return key;
    }

    /** The body of this order, placed at this time. */
    byte[] body(long sequence, byte[] placedAt) {
        int i = (int) (sequence % BODIES);
        byte[] body = Arrays.copyOf(bodies[i], bodies[i].length);
        System.arraycopy(placedAt, 0, body, stampAt[i], placedAt.length);
        return body;
    }
}
