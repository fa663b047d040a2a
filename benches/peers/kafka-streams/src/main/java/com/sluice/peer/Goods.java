package com.sluice.peer;

import java.util.List;

/** Handling classes and the groups whose goods share parcels, by Sluice's codes. */
final class Goods {
    static final List<String> HANDLING = List.of("chilled", "fresh_produce", "ambient_food", "ambient_general",
        "otc_health", "frozen", "age_restricted", "hazmat_check", "live_plant", "non_goods");
    static final List<String> GROUPS =
        List.of("chilled", "ambient", "frozen", "age_restricted", "hazmat_check", "live_plant");
    /** Of a line that is no goods: it is in no parcel. */
    static final int NO_GROUP = -1;
    private static final int[] GROUP_OF = {0, 0, 1, 1, 1, 2, 3, 4, 5, NO_GROUP};

    private Goods() {
    }

    static int group(int handling) {
        return GROUP_OF[handling];
    }
}
