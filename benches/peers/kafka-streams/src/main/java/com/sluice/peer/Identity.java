package com.sluice.peer;

/** Ids from requests: BLAKE3 over merchant and idempotency key; a record's key is {@code merchant/key}. */
final class Identity {
    private static final int MAX_MERCHANT = 32;
    private static final int MAX_KEY = 255;

    private final Blake3 hash = new Blake3();
    private final byte[] input = new byte[1 + MAX_MERCHANT + MAX_KEY];

    /** Length of the merchant's id in front of the key; hashes both. */
    int fingerprint(byte[] key) throws Unfit {
        int slash = 0;
        while (key != null && slash < key.length && key[slash] != '/') {
            slash++;
        }
        if (key == null || slash == 0 || slash > MAX_MERCHANT || key.length - slash - 1 < 1
            || key.length - slash - 1 > MAX_KEY) {
            throw new Unfit("the record's key is not merchant/idempotency-key");
        }
        input[0] = (byte) slash;
        System.arraycopy(key, 0, input, 1, slash);
        System.arraycopy(key, slash + 1, input, 1 + slash, key.length - slash - 1);
        hash.hash(input, key.length);
        return slash;
    }

    /** The half of the last fingerprint that isn't part of the id. */
    long high() {
        return hash.high();
    }

    /** The half that is the id's lower half. */
    long low() {
        return hash.low();
    }
}
