package com.sluice.peer;

import java.util.Locale;
import java.util.Map;
import java.util.stream.Collectors;

/** Results as one line of JSON. */
final class Json {
    private Json() {
    }

    /** Values are texts, numbers, truth values or maps of them. */
    static String of(Map<String, ?> object) {
        return object.entrySet().stream().map(entry -> quote(entry.getKey()) + ":" + value(entry.getValue()))
            .collect(Collectors.joining(",", "{", "}"));
    }

    private static String value(Object value) {
        if (value instanceof Map<?, ?> map) {
            return map.entrySet().stream()
                .map(entry -> quote(entry.getKey().toString()) + ":" + value(entry.getValue()))
                .collect(Collectors.joining(",", "{", "}"));
        }
        if (value instanceof Double number) {
            return String.format(Locale.ROOT, "%.3f", number);
        }
        return value instanceof Number || value instanceof Boolean ? value.toString() : quote(String.valueOf(value));
    }

    private static String quote(String text) {
        return '"' + text.replace("\\", "\\\\").replace("\"", "\\\"") + '"';
    }
}
