package com.sluice.peer;

/** Catalogue, then rules, then the rules' default. Shared by all threads. */
final class Classifier {
    private static final int VERSION_BITS = 21;

    private final Catalogue catalogue = new Catalogue();
    private final Rules rules = new Rules();
    private final int version;

    Classifier() {
        Rules.Fnv hash = new Rules.Fnv();
        hash.writeInt(catalogue.version);
        hash.writeInt(rules.version());
        hash.write(new byte[] {(byte) rules.fallbackHandling()});
        hash.writeInt(rules.fallbackWeight());
        version = (int) (hash.finish() >>> 64 - VERSION_BITS);
    }

    Catalogue catalogue() {
        return catalogue;
    }

    /** Names this knowledge in events, by the same number as Sluice. */
    int version() {
        return version;
    }

    /** Handling class of a line in the upper half, weight of one unit in grams in the lower. */
    long classify(Order order, int line, byte[] buffer) {
        int product = find(order.source, order.skuAt[line], order.skuLength[line]);
        if (product != Catalogue.UNKNOWN) {
            return (long) catalogue.handling(product) << 32 | catalogue.weight(product);
        }
        return rules.classify(order.source, order.titleAt[line], order.titleLength[line], buffer);
    }

    /** Looks up the number that an SKU spells in plain decimal. */
    private int find(byte[] text, int at, int length) {
        if (length > 10 || text[at] == '0') {
            return Catalogue.UNKNOWN;
        }
        long number = 0;
        for (int i = at; i < at + length; i++) {
            int digit = text[i] - '0';
            if (digit < 0 || digit > 9) {
                return Catalogue.UNKNOWN;
            }
            number = number * 10 + digit;
        }
        return number >>> 32 == 0 ? catalogue.find((int) number) : Catalogue.UNKNOWN;
    }
}
