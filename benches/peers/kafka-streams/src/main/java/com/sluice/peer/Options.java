package com.sluice.peer;

import java.util.HashMap;
import java.util.LinkedHashMap;
import java.util.Map;
import java.util.Set;

/** The command line: {@code --name value}, flags without a value, and any number of {@code --set key=value}. */
final class Options {
    private static final Set<String> FLAGS = Set.of("restamp");
    private final Map<String, String> values = new HashMap<>();
    private final Map<String, String> settings = new LinkedHashMap<>();

    Options(String[] arguments, Set<String> known) {
        for (int i = 1; i < arguments.length; i++) {
            String name = arguments[i].startsWith("--") ? arguments[i].substring(2) : "";
            if (!known.contains(name)) {
                throw new IllegalArgumentException("unknown option " + arguments[i] + "; there are " + known);
            }
            if (FLAGS.contains(name)) {
                values.put(name, "");
            } else if (++i == arguments.length) {
                throw new IllegalArgumentException("--" + name + " needs a value");
            } else if (name.equals("set")) {
                String[] pair = arguments[i].split("=", 2);
                settings.put(pair[0], pair.length == 2 ? pair[1] : "");
            } else {
                values.put(name, arguments[i]);
            }
        }
    }

    boolean has(String name) {
        return values.containsKey(name);
    }

    String text(String name, String otherwise) {
        return values.getOrDefault(name, otherwise);
    }

    String required(String name) {
        String value = values.get(name);
        if (value == null) {
            throw new IllegalArgumentException("--" + name + " is required");
        }
        return value;
    }

    long number(String name, long otherwise) {
        String value = values.get(name);
        return value == null ? otherwise : Long.parseLong(value.replace("_", ""));
    }

    Map<String, String> settings() {
        return settings;
    }
}
