package com.sluice.peer;

import com.fasterxml.jackson.core.JsonFactory;
import com.fasterxml.jackson.core.JsonParser;
import com.fasterxml.jackson.core.JsonToken;
import java.lang.management.ManagementFactory;

/** CPU time of reading one order of two lines: by hand, and by Jackson's streaming parser. No test; run it by hand. */
public final class ParserBench {
    private static final int BODIES = 5_000;
    private static final int ROUNDS = 100;

    private interface Read {
        int of(byte[] json) throws Exception;
    }

    private ParserBench() {
    }

    private static double microseconds(byte[][] bodies, Read read) throws Exception {
        int used = 0;
        long started = ManagementFactory.getThreadMXBean().getCurrentThreadCpuTime();
        for (int round = 0; round < ROUNDS; round++) {
            for (byte[] body : bodies) {
                used += read.of(body);
            }
        }
        long took = ManagementFactory.getThreadMXBean().getCurrentThreadCpuTime() - started;
        if (used == 0) {
            throw new IllegalStateException("nothing was read");
        }
        return took / 1e3 / ROUNDS / BODIES;
    }

    /** Jackson with field names and texts as Strings, which is what it is for, and no checks. */
    private static int jackson(JsonFactory factory, byte[] json) throws Exception {
        int used = 0;
        try (JsonParser parser = factory.createParser(json)) {
            for (JsonToken token = parser.nextToken(); token != null; token = parser.nextToken()) {
                switch (token) {
                    case FIELD_NAME -> used += parser.currentName().length();
                    case VALUE_STRING -> used += parser.getText().length();
                    case VALUE_NUMBER_INT -> used += parser.getIntValue();
                    default -> used++;
                }
            }
        }
        return used;
    }

    public static void main(String[] arguments) throws Exception {
        Baskets baskets = new Baskets(new Catalogue());
        byte[][] bodies = new byte[BODIES][];
        for (int i = 0; i < BODIES; i++) {
            bodies[i] = Text.utf8(baskets.twoLines(i, 42, "2026-11-11T00:00:00.123Z").json());
        }
        OrderReader reader = new OrderReader();
        Order order = new Order();
        JsonFactory factory = new JsonFactory();
        for (int round = 0; round < 4; round++) {
            double ours = microseconds(bodies, body -> {
                reader.read(body, order);
                return order.lines;
            });
            double theirs = microseconds(bodies, body -> jackson(factory, body));
            System.out.printf("by hand, with all checks: %.2f us; Jackson, without: %.2f us%n", ours, theirs);
        }
    }
}
