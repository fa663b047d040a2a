package com.sluice.peer;

import java.util.Arrays;

/** A growing buffer that is used again for every order, with the few encodings that the formats need. */
final class ByteWriter {
    private byte[] data = new byte[1024];
    private int length;

    byte[] data() {
        return data;
    }

    int length() {
        return length;
    }

    void clear() {
        length = 0;
    }

    byte[] copy() {
        return Arrays.copyOf(data, length);
    }

    private void reserve(int more) {
        if (length + more > data.length) {
            data = Arrays.copyOf(data, Math.max(data.length * 2, length + more));
        }
    }

    void put(int value) {
        reserve(1);
        data[length++] = (byte) value;
    }

    void put(byte[] source, int from, int count) {
        reserve(count);
        System.arraycopy(source, from, data, length, count);
        length += count;
    }

    void put(byte[] source) {
        put(source, 0, source.length);
    }

    /** Eight bytes, big endian. */
    void putLong(long value) {
        reserve(8);
        for (int shift = 56; shift >= 0; shift -= 8) {
            data[length++] = (byte) (value >>> shift);
        }
    }

    /** Unsigned LEB128. */
    void varint(long value) {
        reserve(10);
        long left = value;
        while ((left & ~0x7fL) != 0) {
            data[length++] = (byte) (left | 0x80);
            left >>>= 7;
        }
        data[length++] = (byte) left;
    }

    /** Zigzag, then as {@link #varint}. */
    void signed(long value) {
        varint(value << 1 ^ value >> 63);
    }

    /** Bytes behind their length. */
    void bytes(byte[] source, int from, int count) {
        varint(count);
        put(source, from, count);
    }

    void bytes(byte[] source) {
        bytes(source, 0, source.length);
    }

    /** Leaves a byte for a nested message's length; gives where the message starts. */
    int open() {
        put(0);
        return length;
    }

    /** Fills in the length of the message that starts at {@code start}; one of 128 bytes or more is moved up for it. */
    void close(int start) {
        int size = length - start;
        if (size < 0x80) {
            data[start - 1] = (byte) size;
            return;
        }
        int width = size < 1 << 14 ? 2 : size < 1 << 21 ? 3 : 4;
        reserve(width);
        System.arraycopy(data, start, data, start - 1 + width, size);
        int end = length + width - 1;
        length = start - 1;
        varint(size);
        length = end;
    }
}
