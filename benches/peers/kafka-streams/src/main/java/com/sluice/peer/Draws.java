package com.sluice.peer;

/** Draws from one seed, one after another, by SplitMix64 as in Sluice's crate `sluice-data`. */
final class Draws {
    private long state;

    /** The draws of one item under a seed. */
    Draws(long seed, long item) {
        state = mix(mix(seed) ^ item);
    }

    private static long mix(long from) {
        long z = from + 0x9e3779b97f4a7c15L;
        z = (z ^ z >>> 30) * 0xbf58476d1ce4e5b9L;
        z = (z ^ z >>> 27) * 0x94d049bb133111ebL;
        return z ^ z >>> 31;
    }

    /** A number below {@code bound}. */
    int below(int bound) {
        state = mix(state);
        return (int) (Math.multiplyHigh(state, (long) bound) + (state >> 63 & bound));
    }

    String pick(String[] table) {
        return table[below(table.length)];
    }
}
