package com.sluice.peer;

import java.util.Arrays;

/** Many numbers without an object for each. */
final class LongList {
    private long[] values = new long[1 << 16];
    private int size;

    void add(long value) {
        if (size == values.length) {
            values = Arrays.copyOf(values, 2 * size);
        }
        values[size++] = value;
    }

    int size() {
        return size;
    }

    /** Ascending; how many stand there more than once is in {@link #repeats}. */
    long[] sorted() {
        long[] sorted = Arrays.copyOf(values, size);
        Arrays.sort(sorted);
        return sorted;
    }

    static int repeats(long[] sorted) {
        int repeats = 0;
        for (int i = 1; i < sorted.length; i++) {
            repeats += sorted[i] == sorted[i - 1] ? 1 : 0;
        }
        return repeats;
    }
}
