package com.sluice.peer;

import java.util.ArrayList;
import java.util.List;

/** Names of topics under a prefix. */
record Names(String prefix) {
    String orders() {
        return prefix + ".orders-json";
    }

    String outcomes() {
        return prefix + ".outcomes";
    }

    String events() {
        return prefix + ".order-events";
    }

    String deadLetters() {
        return prefix + ".dead-letters";
    }

    String shipments(String carrier) {
        return prefix + ".shipments." + carrier;
    }

    List<String> all() {
        List<String> all = new ArrayList<>(List.of(orders(), outcomes(), events(), deadLetters()));
        Router.CARRIERS.forEach(carrier -> all.add(shipments(carrier)));
        return all;
    }
}
