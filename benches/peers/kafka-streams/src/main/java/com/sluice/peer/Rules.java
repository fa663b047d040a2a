package com.sluice.peer;

import java.nio.charset.StandardCharsets;
import java.util.ArrayDeque;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.regex.Matcher;
import java.util.regex.Pattern;

/**
 * Sluice's rule file: words in a title, for goods that the catalogue doesn't know. All words of all rules are looked
 * for in one pass by an Aho-Corasick automaton; of the rules that match, the first in the file wins.
 */
final class Rules {
    private static final int LONGEST_TITLE = 200;
    private static final int NO_RULE = Integer.MAX_VALUE;
    /** The automaton's alphabet: a space, letters and digits, and one for each byte above ASCII. */
    private static final int SYMBOLS = 256;

    private record Rule(int handling, int weight) {
    }

    private final List<Rule> rules = new ArrayList<>();
    private final List<List<byte[]>> words = new ArrayList<>();
    private final Rule fallback;
    private final int version;
    /** Next state by state and symbol. */
    private final char[] next;
    /** By state the first rule that a word ending there belongs to. */
    private final int[] found;

    Rules() {
        byte[] file = DataFile.resource("rules.toml");
        Fnv hash = new Fnv();
        hash.write(file);
        version = (int) (hash.finish() >>> 32);
        // Only comments and the default stand before the first rule.
        String[] parts = new String(file, StandardCharsets.UTF_8).replaceAll("(?m)^#.*$", "").split("\\[\\[rule]]");
        fallback = rule(parts[0]);
        for (int i = 1; i < parts.length; i++) {
            rules.add(rule(parts[i]));
            words.add(words(parts[i]));
        }
        List<char[]> states = new ArrayList<>();
        List<Integer> ends = new ArrayList<>();
        addState(states, ends);
        for (int i = 0; i < words.size(); i++) {
            for (byte[] word : words.get(i)) {
                insert(states, ends, word, i);
            }
        }
        next = new char[states.size() * SYMBOLS];
        found = new int[states.size()];
        link(states, ends);
    }

    private static Rule rule(String part) {
        int handling = Goods.HANDLING.indexOf(value(part, "handling = \"([a-z_]+)\""));
        return new Rule(handling, Integer.parseInt(value(part, "weight_g = ([0-9]+)")));
    }

    private static String value(String part, String pattern) {
        Matcher matcher = Pattern.compile(pattern).matcher(part);
        if (!matcher.find()) {
            throw new IllegalStateException("rules.toml: no " + pattern + " in " + part);
        }
        return matcher.group(1);
    }

    private static List<byte[]> words(String part) {
        Matcher matcher = Pattern.compile("\"([^\"]+)\"").matcher(value(part, "(?s)any = \\[(.*?)]"));
        List<byte[]> words = new ArrayList<>();
        byte[] buffer = new byte[LONGEST_TITLE + 2];
        while (matcher.find()) {
            byte[] word = Text.utf8(matcher.group(1));
            words.add(Arrays.copyOf(buffer, reduce(word, 0, word.length, buffer)));
        }
        return words;
    }

    private static int addState(List<char[]> states, List<Integer> ends) {
        states.add(new char[SYMBOLS]);
        ends.add(NO_RULE);
        return states.size() - 1;
    }

    private static void insert(List<char[]> states, List<Integer> ends, byte[] word, int rule) {
        int state = 0;
        for (byte symbol : word) {
            int child = states.get(state)[symbol & 0xff];
            if (child == 0) {
                child = addState(states, ends);
                states.get(state)[symbol & 0xff] = (char) child;
            }
            state = child;
        }
        ends.set(state, Math.min(ends.get(state), rule));
    }

    /** Completes the trie to an automaton, breadth first: where a state has no child it goes on as its suffix does. */
    private void link(List<char[]> states, List<Integer> ends) {
        int[] suffix = new int[states.size()];
        ArrayDeque<Integer> queue = new ArrayDeque<>(List.of(0));
        while (!queue.isEmpty()) {
            int state = queue.poll();
            found[state] = Math.min(ends.get(state), state == 0 ? NO_RULE : found[suffix[state]]);
            for (int symbol = 0; symbol < SYMBOLS; symbol++) {
                int child = states.get(state)[symbol];
                char onward = state == 0 ? 0 : next[suffix[state] * SYMBOLS + symbol];
                next[state * SYMBOLS + symbol] = child == 0 ? onward : (char) child;
                if (child != 0) {
                    suffix[child] = onward;
                    queue.add(child);
                }
            }
        }
    }

    /** Words between single spaces, with a space at either end; anything but letters and digits separates words. */
    private static int reduce(byte[] text, int from, int count, byte[] out) {
        out[0] = ' ';
        int length = 1;
        for (int i = from; i < from + Math.min(count, LONGEST_TITLE); i++) {
            byte symbol = text[i];
            if (symbol >= 'a' && symbol <= 'z') {
                symbol -= 'a' - 'A';
            } else if (!(symbol >= 'A' && symbol <= 'Z' || symbol >= '0' && symbol <= '9' || symbol < 0)) {
                symbol = ' ';
            }
            if (symbol != ' ' || out[length - 1] != ' ') {
                out[length++] = symbol;
            }
        }
        if (out[length - 1] != ' ') {
            out[length++] = ' ';
        }
        return length;
    }

    /** A hash of the whole file, as Sluice has it. */
    int version() {
        return version;
    }

    int fallbackHandling() {
        return fallback.handling;
    }

    int fallbackWeight() {
        return fallback.weight;
    }

    int size() {
        return rules.size();
    }

    /** Handling class in the upper half, weight of one unit in grams in the lower. {@code buffer} is scratch. */
    long classify(byte[] text, int from, int count, byte[] buffer) {
        int length = reduce(text, from, count, buffer);
        int state = 0;
        int first = NO_RULE;
        for (int i = 0; i < length; i++) {
            state = next[state * SYMBOLS + (buffer[i] & 0xff)];
            first = Math.min(first, found[state]);
        }
        Rule rule = first == NO_RULE ? fallback : rules.get(first);
        return (long) rule.handling << 32 | rule.weight;
    }

    static byte[] buffer() {
        return new byte[LONGEST_TITLE + 2];
    }

    /** FNV-1a with a final mix. */
    static final class Fnv {
        private long hash = 0xcbf29ce484222325L;

        void write(byte[] bytes) {
            for (byte next : bytes) {
                hash = (hash ^ next & 0xff) * 0x100000001b3L;
            }
        }

        void writeInt(int value) {
            write(new byte[] {(byte) value, (byte) (value >>> 8), (byte) (value >>> 16), (byte) (value >>> 24)});
        }

        long finish() {
            long x = (hash ^ hash >>> 33) * 0xff51afd7ed558ccdL;
            return x ^ x >>> 33;
        }
    }
}
