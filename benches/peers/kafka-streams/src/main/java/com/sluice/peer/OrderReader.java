package com.sluice.peer;

import java.nio.ByteBuffer;
import java.nio.charset.CharacterCodingException;
import java.nio.charset.CodingErrorAction;
import java.nio.charset.StandardCharsets;
import java.util.Arrays;

/**
 * JSON order → {@link Order} in one pass over the bytes, by the rules of Sluice's checkout: every field required, none
 * unknown, none twice, bounds on everything. No text becomes a String; DecodeTest compares it with Jackson.
 */
final class OrderReader {
    private static final int MAX_ORDER_BYTES = 64 * 1024;
    private static final int MAX_QUANTITY = 1_000;
    private static final long MAX_UNIT_PRICE = 1_000_000_000;
    private static final int[] MIN_LENGTH = {1, 3, 1, 1, 1, 0, 2};
    private static final int[] MAX_LENGTH = {64, 3, 100, 100, 100, 16, 2};
    private static final int MAX_SKU = 64;
    private static final int MAX_TITLE = 200;
    private static final int MAX_KEY = 255;

    private static final byte[][] ORDER_FIELDS =
        fields("customer", "placed_at", "currency", "ship_to", "lines", "idempotency_key");
    private static final byte[][] ADDRESS_FIELDS = fields("name", "street", "city", "postal_code", "country");
    private static final byte[][] LINE_FIELDS = fields("sku", "title", "quantity", "unit_price");
    /** All fields of an order but the key, which comes with lines of a batch. */
    private static final int ORDER_REQUIRED = 0b11111;
    private static final int ADDRESS_REQUIRED = 0b11111;
    private static final int LINE_REQUIRED = 0b1111;

    /** True for bytes that stand for themselves in a string: printable ASCII but quote and backslash. */
    private static final boolean[] PLAIN = plain();

    private byte[] in;
    private int at;
    /** The last string read. */
    private int textAt;
    private int textLength;
    private boolean copied;

    private static byte[][] fields(String... names) {
        return Arrays.stream(names).map(Text::ascii).toArray(byte[][]::new);
    }

    private static boolean[] plain() {
        boolean[] plain = new boolean[256];
        Arrays.fill(plain, ' ', 0x7f, true);
        plain['"'] = false;
        plain['\\'] = false;
        return plain;
    }

    /** Reads {@code json} into {@code order}. */
    void read(byte[] json, Order order) throws Unfit {
        if (json == null || json.length > MAX_ORDER_BYTES) {
            throw new Unfit("no body, or one over " + MAX_ORDER_BYTES + " bytes");
        }
        in = json;
        at = 0;
        copied = false;
        try {
            order(order);
            skipSpace();
        } catch (ArrayIndexOutOfBoundsException cutShort) {
            throw new Unfit("the JSON is cut short");
        }
        if (at != json.length) {
            throw new Unfit("more than one JSON value");
        }
        order.source = in;
    }

    private void order(Order order) throws Unfit {
        int seen = 0;
        for (boolean more = open('{', '}'); more; more = next('}')) {
            int field = field(ORDER_FIELDS);
            seen = once(seen, field);
            switch (field) {
                case 0 -> text(order, Order.CUSTOMER);
                case 1 -> {
                    string(0, 64);
                    order.placedAtMs = Time.parse(in, textAt, textLength);
                }
                case 2 -> text(order, Order.CURRENCY);
                case 3 -> address(order);
                case 4 -> lines(order);
                default -> {
                    string(1, MAX_KEY);
                    visible();
                }
            }
        }
        require(seen, ORDER_REQUIRED);
    }

    private void address(Order order) throws Unfit {
        int seen = 0;
        for (boolean more = open('{', '}'); more; more = next('}')) {
            int field = field(ADDRESS_FIELDS);
            seen = once(seen, field);
            text(order, Order.NAME + field);
        }
        require(seen, ADDRESS_REQUIRED);
    }

    private void lines(Order order) throws Unfit {
        int count = 0;
        for (boolean more = open('[', ']'); more; more = next(']')) {
            if (count == Order.MAX_LINES) {
                throw new Unfit("more than " + Order.MAX_LINES + " lines");
            }
            line(order, count++);
        }
        if (count == 0) {
            throw new Unfit("no lines");
        }
        order.lines = count;
    }

    private void line(Order order, int line) throws Unfit {
        int seen = 0;
        for (boolean more = open('{', '}'); more; more = next('}')) {
            int field = field(LINE_FIELDS);
            seen = once(seen, field);
            switch (field) {
                case 0 -> {
                    string(1, MAX_SKU);
                    order.skuAt[line] = textAt;
                    order.skuLength[line] = textLength;
                }
                case 1 -> {
                    string(1, MAX_TITLE);
                    order.titleAt[line] = textAt;
                    order.titleLength[line] = textLength;
                }
                case 2 -> order.quantity[line] = (int) number(1, MAX_QUANTITY);
                default -> order.unitPrice[line] = number(0, MAX_UNIT_PRICE);
            }
        }
        require(seen, LINE_REQUIRED);
    }

    private static int once(int seen, int field) throws Unfit {
        if ((seen & 1 << field) != 0) {
            throw new Unfit("a field is given twice");
        }
        return seen | 1 << field;
    }

    private static void require(int seen, int required) throws Unfit {
        if ((seen & required) != required) {
            throw new Unfit("a field is missing");
        }
    }

    private void text(Order order, int text) throws Unfit {
        string(MIN_LENGTH[text], MAX_LENGTH[text]);
        if (text == Order.CURRENCY || text == Order.COUNTRY) {
            for (int i = textAt; i < textAt + textLength; i++) {
                if (in[i] < 'A' || in[i] > 'Z') {
                    throw new Unfit("a code isn't in upper-case letters");
                }
            }
        }
        order.textAt[text] = textAt;
        order.textLength[text] = textLength;
    }

    private void visible() throws Unfit {
        for (int i = textAt; i < textAt + textLength; i++) {
            if (in[i] <= ' ' || in[i] == 0x7f) {
                throw new Unfit("a key isn't visible ASCII");
            }
        }
    }

    private void skipSpace() {
        while (at < in.length && (in[at] == ' ' || in[at] == '\n' || in[at] == '\r' || in[at] == '\t')) {
            at++;
        }
    }

    private void expect(char symbol) throws Unfit {
        skipSpace();
        if (in[at++] != symbol) {
            throw new Unfit("no JSON of an order: " + symbol + " expected at byte " + (at - 1));
        }
    }

    /** Enters an object or array; false if it is empty. */
    private boolean open(char opening, char closing) throws Unfit {
        expect(opening);
        skipSpace();
        if (in[at] == closing) {
            at++;
            return false;
        }
        return true;
    }

    /** True if another member follows, false at the end. */
    private boolean next(char closing) throws Unfit {
        skipSpace();
        if (in[at] == ',') {
            at++;
            return true;
        }
        expect(closing);
        return false;
    }

    /** Reads a member's name and the colon; gives its number in {@code names}. */
    private int field(byte[][] names) throws Unfit {
        string(0, MAX_KEY);
        for (int i = 0; i < names.length; i++) {
            byte[] name = names[i];
            if (name.length == textLength && Arrays.equals(name, 0, textLength, in, textAt, textAt + textLength)) {
                expect(':');
                return i;
            }
        }
        throw new Unfit("an unknown field");
    }

    private long number(long min, long max) throws Unfit {
        skipSpace();
        int start = at;
        long value = 0;
        while (in[at] >= '0' && in[at] <= '9') {
            value = value * 10 + in[at++] - '0';
            if (value > max) {
                throw new Unfit("a number over " + max);
            }
        }
        boolean whole = in[at] != '.' && in[at] != 'e' && in[at] != 'E';
        if (at == start || value < min || in[start] == '0' && at > start + 1 || !whole) {
            throw new Unfit("not a whole number from " + min + " to " + max);
        }
        return value;
    }

    private void string(int min, int max) throws Unfit {
        expect('"');
        int i = at;
        while (PLAIN[in[i] & 0xff]) {
            i++;
        }
        textAt = at;
        textLength = i - at;
        if (in[i] == '"') {
            at = i + 1;
        } else {
            unusual(i);
        }
        if (textLength < min || textLength > max) {
            throw new Unfit("a text has not " + min + " to " + max + " bytes");
        }
    }

    /** The rest of a string that has escapes or bytes above ASCII. */
    private void unusual(int from) throws Unfit {
        int read = from;
        int write = from;
        while (in[read] != '"') {
            byte symbol = in[read++];
            if (symbol == '\\') {
                if (!copied) {
                    // A dead letter must show what came, so only a copy is unescaped in place.
                    in = in.clone();
                    copied = true;
                }
                write = unescape(read, write);
                read = at;
            } else if (symbol >= 0 && symbol < ' ' || symbol == 0x7f) {
                throw new Unfit("a control character");
            } else {
                if (write < read - 1) {
                    in[write] = symbol;
                }
                write++;
            }
        }
        at = read + 1;
        textLength = write - textAt;
        checkCharacters();
    }

    /** Unescapes what follows a backslash before {@code read}; leaves {@link #at} behind it and gives the new end. */
    private int unescape(int read, int write) throws Unfit {
        at = read + 1;
        switch (in[read]) {
            case '"', '\\', '/' -> in[write] = in[read];
            case 'u' -> {
                return unescapeUnicode(write);
            }
            default -> throw new Unfit("a control character, or no escape");
        }
        return write + 1;
    }

    private int unescapeUnicode(int write) throws Unfit {
        int code = hex4();
        if (code >= 0xd800 && code < 0xdc00) {
            if (in[at] != '\\' || in[at + 1] != 'u') {
                throw new Unfit("half a surrogate pair");
            }
            at += 2;
            code = Character.toCodePoint((char) code, (char) hex4());
        }
        if (code < ' ' || code >= 0xd800 && code < 0xe000 || !Character.isValidCodePoint(code)) {
            throw new Unfit("a control character, or half a surrogate pair");
        }
        byte[] utf8 = Text.utf8(Character.toString(code));
        System.arraycopy(utf8, 0, in, write, utf8.length);
        return write + utf8.length;
    }

    private int hex4() throws Unfit {
        int code = 0;
        for (int i = 0; i < 4; i++) {
            int digit = Character.digit(in[at++], 16);
            if (digit < 0) {
                throw new Unfit("no escape");
            }
            code = code << 4 | digit;
        }
        return code;
    }

    private void checkCharacters() throws Unfit {
        try {
            var decoder = StandardCharsets.UTF_8.newDecoder().onMalformedInput(CodingErrorAction.REPORT);
            var text = decoder.decode(ByteBuffer.wrap(in, textAt, textLength));
            if (text.chars().anyMatch(Character::isISOControl)) {
                throw new Unfit("a control character");
            }
        } catch (CharacterCodingException e) {
            throw new Unfit("no UTF-8");
        }
    }
}
