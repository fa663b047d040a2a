package com.sluice.peer;

import java.nio.charset.StandardCharsets;

/** Texts as bytes. */
final class Text {
    private static final byte[] HEX = ascii("0123456789abcdef");
    private static final int MS_OF_DAY = 86_400_000;

    private Text() {
    }

    static byte[] ascii(String text) {
        return text.getBytes(StandardCharsets.US_ASCII);
    }

    static byte[] utf8(String text) {
        return text.getBytes(StandardCharsets.UTF_8);
    }

    /** {@code value} in 16 hex digits from {@code at} on. */
    static void hex(byte[] out, int at, long value) {
        for (int i = 0; i < 16; i++) {
            out[at + i] = HEX[(int) (value >>> 60 - 4 * i) & 15];
        }
    }

    /** A time in ms since the Unix epoch as {@code 2026-11-10T00:00:00.123Z}. */
    static byte[] rfc3339(long ms) {
        byte[] text = ascii("0000-00-00T00:00:00.000Z");
        // Days since 0000-03-01, so that a leap day ends its year; 146,097 days are 400 years.
        long shifted = ms / MS_OF_DAY + 719_468;
        int dayOfEra = (int) (shifted % 146_097);
        int yearOfEra = (dayOfEra - dayOfEra / 1_460 + dayOfEra / 36_524 - dayOfEra / 146_096) / 365;
        int dayOfYear = dayOfEra - (365 * yearOfEra + yearOfEra / 4 - yearOfEra / 100);
        int fromMarch = (5 * dayOfYear + 2) / 153;
        int month = fromMarch < 10 ? fromMarch + 3 : fromMarch - 9;
        int ofDay = (int) (ms % MS_OF_DAY);
        digits(text, 0, 4, (int) (shifted / 146_097) * 400 + yearOfEra + (month <= 2 ? 1 : 0));
        digits(text, 5, 2, month);
        digits(text, 8, 2, dayOfYear - (153 * fromMarch + 2) / 5 + 1);
        digits(text, 11, 2, ofDay / 3_600_000);
        digits(text, 14, 2, ofDay / 60_000 % 60);
        digits(text, 17, 2, ofDay / 1_000 % 60);
        digits(text, 20, 3, ofDay % 1_000);
        return text;
    }

    /** {@code value} in exactly {@code width} digits. */
    static void digits(byte[] out, int at, int width, int value) {
        int left = value;
        for (int i = at + width - 1; i >= at; i--) {
            out[i] = (byte) ('0' + left % 10);
            left /= 10;
        }
    }
}
