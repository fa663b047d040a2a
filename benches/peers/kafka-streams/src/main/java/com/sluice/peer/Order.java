package com.sluice.peer;

/** One order as read: places of its texts in {@link #source}, used again for the next one. */
final class Order {
    static final int CUSTOMER = 0;
    static final int CURRENCY = 1;
    static final int NAME = 2;
    static final int STREET = 3;
    static final int CITY = 4;
    static final int POSTAL_CODE = 5;
    static final int COUNTRY = 6;
    static final int TEXTS = 7;
    static final int MAX_LINES = 100;

    /** The JSON; a copy of it where texts had to be unescaped. */
    byte[] source;
    final int[] textAt = new int[TEXTS];
    final int[] textLength = new int[TEXTS];
    long placedAtMs;
    int lines;
    final int[] skuAt = new int[MAX_LINES];
    final int[] skuLength = new int[MAX_LINES];
    final int[] titleAt = new int[MAX_LINES];
    final int[] titleLength = new int[MAX_LINES];
    final int[] quantity = new int[MAX_LINES];
    final long[] unitPrice = new long[MAX_LINES];

    /** From the record's key and time. */
    long acceptedAtMs;
    byte[] key;
    int merchantLength;
    long fingerprintHigh;
    long idUpper;
    long idLower;

    /** Writes the order record as Sluice's log keeps it, which a shipment carries along. */
    void encode(ByteWriter out) {
        out.put(1);
        out.putLong(idUpper);
        out.putLong(idLower);
        out.putLong(fingerprintHigh);
        out.signed(acceptedAtMs - placedAtMs);
        out.bytes(key, 0, merchantLength);
        for (int text = 0; text < TEXTS; text++) {
            out.bytes(source, textAt[text], textLength[text]);
        }
        out.varint(lines);
        for (int line = 0; line < lines; line++) {
            out.bytes(source, skuAt[line], skuLength[line]);
            out.bytes(source, titleAt[line], titleLength[line]);
            out.varint(quantity[line]);
            out.varint(unitPrice[line]);
        }
    }
}
