package com.sluice.peer;

/** RFC 3339 date-times. */
final class Time {
    private static final int SHORTEST = 20;

    private Time() {
    }

    /** ms since the Unix epoch; digits beyond milliseconds are cut off. */
    static long parse(byte[] text, int at, int length) throws Unfit {
        if (length < SHORTEST || text[at + 4] != '-' || text[at + 7] != '-' || (text[at + 10] | 0x20) != 't'
            || text[at + 13] != ':' || text[at + 16] != ':') {
            throw wrong();
        }
        int year = pair(text, at) * 100 + pair(text, at + 2);
        int month = pair(text, at + 5);
        int day = pair(text, at + 8);
        int hour = pair(text, at + 11);
        int minute = pair(text, at + 14);
        int second = pair(text, at + 17);
        if (month < 1 || month > 12 || day < 1 || day > daysInMonth(year, month)
            || hour > 23 || minute > 59 || second > 59) {
            throw wrong();
        }
        int i = at + 19;
        int end = at + length;
        int millis = 0;
        if (text[i] == '.') {
            int first = ++i;
            while (i < end && text[i] >= '0' && text[i] <= '9') {
                i++;
            }
            if (i == first || i > first + 9) {
                throw wrong();
            }
            for (int place = 0; place < 3; place++) {
                millis = millis * 10 + (first + place < i ? text[first + place] - '0' : 0);
            }
        }
        long seconds = days(year, month, day) * 86_400 + hour * 3_600 + minute * 60 + second - offset(text, i, end);
        return seconds * 1_000 + millis;
    }

    private static Unfit wrong() {
        return new Unfit("placed_at is no RFC 3339 time");
    }

    private static int pair(byte[] text, int at) throws Unfit {
        int tens = text[at] - '0';
        int ones = text[at + 1] - '0';
        if (tens < 0 || tens > 9 || ones < 0 || ones > 9) {
            throw wrong();
        }
        return tens * 10 + ones;
    }

    /** Seconds east of UTC. */
    private static int offset(byte[] text, int at, int end) throws Unfit {
        if (end - at == 1 && (text[at] | 0x20) == 'z') {
            return 0;
        }
        if (end - at != 6 || text[at] != '+' && text[at] != '-' || text[at + 3] != ':') {
            throw wrong();
        }
        int hours = pair(text, at + 1);
        int minutes = pair(text, at + 4);
        if (hours > 23 || minutes > 59) {
            throw wrong();
        }
        return (hours * 3_600 + minutes * 60) * (text[at] == '-' ? -1 : 1);
    }

    private static int daysInMonth(int year, int month) {
        return switch (month) {
            case 4, 6, 9, 11 -> 30;
            case 2 -> year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) ? 29 : 28;
            default -> 31;
        };
    }

    /** Days since 1970-01-01. */
    private static long days(int year, int month, int day) {
        int from = month <= 2 ? year - 1 : year;
        int era = Math.floorDiv(from, 400);
        int yearOfEra = Math.floorMod(from, 400);
        int dayOfYear = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
        return era * 146_097L + yearOfEra * 365 + yearOfEra / 4 - yearOfEra / 100 + dayOfYear - 719_468;
    }
}
