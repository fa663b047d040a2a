package com.sluice.peer;

/** What is known of each product: an open-addressed table of plain arrays, as Sluice's is. Shared by all threads. */
final class Catalogue {
    private static final int SPREAD = 0x9e3779b1;
    /** What {@link #find} gives for a product that isn't there. */
    static final int UNKNOWN = -1;

    /** Changes with the catalogue. */
    final int version;
    private final int mask;
    private final int shift;
    /** SKU (0 marks a free place), handling class and title by place: one cache line tells the first two. */
    private final int[] rows;
    private final String[] titles;

    Catalogue() {
        DataFile file = new DataFile("catalogue.sld", "SLUICECT");
        version = file.crc;
        if (!String.join("\n", Goods.HANDLING).equals(String.join("\n", file.column().lines()))) {
            throw new IllegalStateException("the catalogue has other handling classes");
        }
        file.column(); // departments
        titles = file.column().lines();
        DataFile.Column skus = file.column();
        file.column(); // each product's department
        DataFile.Column handling = file.column();
        DataFile.Column weights = file.column();
        DataFile.Column titleNumbers = file.column();
        int bits = 32 - Integer.numberOfLeadingZeros(file.rows * 4 / 3 + 1);
        mask = (1 << bits) - 1;
        shift = 32 - bits;
        rows = new int[4 << bits];
        int sku = 0;
        for (int i = 0; i < file.rows; i++) {
            sku += skus.number();
            int at = sku * SPREAD >>> shift;
            while (rows[at * 4] != 0) {
                at = at + 1 & mask;
            }
            rows[at * 4] = sku;
            rows[at * 4 + 1] = handling.unsignedByte();
            rows[at * 4 + 2] = weights.number();
            rows[at * 4 + 3] = titleNumbers.number();
        }
    }

    /** The product with this number, or {@link #UNKNOWN}. */
    int find(int sku) {
        int at = sku * SPREAD >>> shift;
        while (true) {
            int found = rows[at * 4];
            if (found == 0) {
                return UNKNOWN;
            }
            if (found == sku) {
                return at;
            }
            at = at + 1 & mask;
        }
    }

    int handling(int product) {
        return rows[product * 4 + 1];
    }

    /** Grams of one unit. */
    int weight(int product) {
        return rows[product * 4 + 2];
    }

    String title(int product) {
        return titles[rows[product * 4 + 3]];
    }
}
