package com.sluice.peer;

/** Real baskets as orders of two lines: the bodies that Sluice's own benchmarks are made of, byte for byte. */
final class Baskets {
    private final Catalogue catalogue;
    private final int[] store;
    private final int[] household;
    private final int[] firstLine;
    private final int[] lineCount;
    private final int[] sku;
    private final int[] quantity;
    private final int[] unitPrice;
    /** The baskets that have two lines or more. */
    private final int[] shared;
    private final int sharedCount;

    Baskets(Catalogue catalogue) {
        this.catalogue = catalogue;
        DataFile file = new DataFile("baskets.sld", "SLUICEBK");
        int rows = file.rows;
        store = numbers(file.column(), rows);
        household = numbers(file.column(), rows);
        file.column(); // times
        lineCount = numbers(file.column(), rows);
        firstLine = new int[rows];
        shared = new int[rows];
        int lines = 0;
        int found = 0;
        for (int i = 0; i < rows; i++) {
            firstLine[i] = lines;
            lines += lineCount[i];
            if (lineCount[i] > 1) {
                shared[found++] = i;
            }
        }
        sharedCount = found;
        sku = numbers(file.column(), lines);
        quantity = numbers(file.column(), lines);
        unitPrice = numbers(file.column(), lines);
        for (int i = 0; i < rows; i++) {
            for (int line = firstLine[i] + 1; line < firstLine[i] + lineCount[i]; line++) {
                sku[line] += sku[line - 1];
            }
        }
    }

    private static int[] numbers(DataFile.Column column, int count) {
        int[] numbers = new int[count];
        for (int i = 0; i < count; i++) {
            numbers[i] = column.number();
        }
        return numbers;
    }

    /** A merchant and the body of the order it was sent. */
    record Body(String merchant, String json) {
    }

    /** The order of this number under a seed; {@code placedAt} is the text of a time. */
    Body twoLines(long sequence, long seed, String placedAt) {
        Draws draws = new Draws(seed, sequence);
        int basket = shared[draws.below(sharedCount)];
        int first = draws.below(lineCount[basket]);
        int other = draws.below(lineCount[basket] - 1);
        // Drawn from the others: those from `first` on move up by one.
        int second = other < first ? other : other + 1;
        StringBuilder out = new StringBuilder(512);
        out.append("{\"customer\":\"c-").append(household[basket]).append("\",\"placed_at\":\"").append(placedAt);
        out.append("\",\"currency\":\"USD\",\"ship_to\":");
        Addresses.append(out, seed, household[basket]);
        out.append(",\"lines\":[");
        line(out, firstLine[basket] + Math.min(first, second));
        out.append(',');
        line(out, firstLine[basket] + Math.max(first, second));
        out.append("]}");
        return new Body("m-" + store[basket], out.toString());
    }

    private void line(StringBuilder out, int line) {
        String title = catalogue.title(catalogue.find(sku[line])).replace("\\", "\\\\").replace("\"", "\\\"");
        out.append("{\"sku\":\"").append(Integer.toUnsignedString(sku[line])).append("\",\"title\":\"").append(title);
        out.append("\",\"quantity\":").append(quantity[line]).append(",\"unit_price\":").append(unitPrice[line]);
        out.append('}');
    }
}
