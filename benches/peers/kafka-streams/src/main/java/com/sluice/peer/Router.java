package com.sluice.peer;

import java.util.List;
import java.util.Locale;

/**
 * Four healthy carriers that take everything, as in Sluice's own benchmarks. Which of them takes an order's parcels
 * follows from shares and the order's id by Sluice's arithmetic, so both send every parcel to the same carrier.
 */
final class Router {
    static final List<String> CARRIERS = List.of("swift", "steady", "value", "metro");
    static final int MAX_WEIGHT_G = 30_000;
    static final int NOBODY = -1;
    /** Shares summed up: a fourth power of a score's ratio to the best, which is one for all. */
    private final long[] sums = new long[CARRIERS.size()];

    Router() {
        long ratio = 1 << 13;
        for (int i = 0; i < sums.length; i++) {
            sums[i] = (i == 0 ? 0 : sums[i - 1]) + ratio * ratio * ratio * ratio;
        }
    }

    /** The carrier for a parcel of the order with this hash. */
    int pick(int weight, long orderHash) {
        if (weight > MAX_WEIGHT_G) {
            return NOBODY;
        }
        long x = (orderHash ^ orderHash >>> 33) * 0xff51afd7ed558ccdL;
        long point = x ^ x >>> 33;
        long total = sums[sums.length - 1];
        // The upper half of the unsigned product; only the signed one is there in Java 17.
        long at = Math.multiplyHigh(point, total) + (point >> 63 & total);
        int carrier = 0;
        while (sums[carrier] <= at) {
            carrier++;
        }
        return carrier;
    }

    static String whyNobody(int group, int weight) {
        return String.format(Locale.ROOT, "no carrier takes %s parcels of %,d g (limit %,d g)",
            Goods.GROUPS.get(group), weight, MAX_WEIGHT_G);
    }
}
