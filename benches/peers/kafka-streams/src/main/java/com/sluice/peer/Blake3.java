package com.sluice.peer;

/**
 * The first 16 bytes of BLAKE3 of at most 1,024 bytes, which is one chunk: order ids come from it. An own one because
 * the libraries' allocate several objects a hash.
 */
final class Blake3 {
    private static final int[] IV = {
        0x6A09E667, 0xBB67AE85, 0x3C6EF372, 0xA54FF53A, 0x510E527F, 0x9B05688C, 0x1F83D9AB, 0x5BE0CD19,
    };
    private static final int[] PERMUTATION = {2, 6, 3, 10, 7, 0, 4, 13, 1, 11, 12, 5, 9, 14, 15, 8};
    private static final int ROUNDS = 7;
    private static final int BLOCK = 64;
    private static final int CHUNK_START = 1;
    private static final int CHUNK_END = 2;
    private static final int ROOT = 8;
    /** For each round which word of the block stands where. */
    private static final int[][] SCHEDULE = schedule();

    private final int[] chaining = new int[8];
    private final int[] message = new int[16];
    private final int[] state = new int[16];
    private long high;
    private long low;

    /** The first 8 bytes of the last hash, big endian. */
    long high() {
        return high;
    }

    /** The next 8. */
    long low() {
        return low;
    }

    private static int[][] schedule() {
        int[][] rounds = new int[ROUNDS][16];
        for (int i = 0; i < 16; i++) {
            rounds[0][i] = i;
        }
        for (int round = 1; round < ROUNDS; round++) {
            for (int i = 0; i < 16; i++) {
                rounds[round][i] = rounds[round - 1][PERMUTATION[i]];
            }
        }
        return rounds;
    }

    /** Hashes {@code length} bytes of {@code input}. */
    void hash(byte[] input, int length) {
        if (length > 1024) {
            throw new IllegalArgumentException("more than one chunk: " + length + " bytes");
        }
        System.arraycopy(IV, 0, chaining, 0, 8);
        int at = 0;
        do {
            int size = Math.min(BLOCK, length - at);
            int flags = (at == 0 ? CHUNK_START : 0) | (at + size == length ? CHUNK_END | ROOT : 0);
            load(input, at, size);
            compress(size, flags);
            at += size;
        } while (at < length);
        high = (long) Integer.reverseBytes(chaining[0]) << 32 | Integer.reverseBytes(chaining[1]) & 0xffffffffL;
        low = (long) Integer.reverseBytes(chaining[2]) << 32 | Integer.reverseBytes(chaining[3]) & 0xffffffffL;
    }

    private void load(byte[] input, int at, int size) {
        for (int word = 0; word < 16; word++) {
            int value = 0;
            for (int i = 0; i < 4; i++) {
                int offset = word * 4 + i;
                if (offset < size) {
                    value |= (input[at + offset] & 0xff) << 8 * i;
                }
            }
            message[word] = value;
        }
    }

    private void compress(int size, int flags) {
        System.arraycopy(chaining, 0, state, 0, 8);
        System.arraycopy(IV, 0, state, 8, 4);
        // The chunk's number is 0.
        state[12] = 0;
        state[13] = 0;
        state[14] = size;
        state[15] = flags;
        for (int[] s : SCHEDULE) {
            mix(0, 4, 8, 12, message[s[0]], message[s[1]]);
            mix(1, 5, 9, 13, message[s[2]], message[s[3]]);
            mix(2, 6, 10, 14, message[s[4]], message[s[5]]);
            mix(3, 7, 11, 15, message[s[6]], message[s[7]]);
            mix(0, 5, 10, 15, message[s[8]], message[s[9]]);
            mix(1, 6, 11, 12, message[s[10]], message[s[11]]);
            mix(2, 7, 8, 13, message[s[12]], message[s[13]]);
            mix(3, 4, 9, 14, message[s[14]], message[s[15]]);
        }
        for (int i = 0; i < 8; i++) {
            chaining[i] = state[i] ^ state[i + 8];
        }
    }

    private void mix(int a, int b, int c, int d, int x, int y) {
        int[] v = state;
        int va = v[a] + v[b] + x;
        int vd = Integer.rotateRight(v[d] ^ va, 16);
        int vc = v[c] + vd;
        int vb = Integer.rotateRight(v[b] ^ vc, 12);
        va += vb + y;
        vd = Integer.rotateRight(vd ^ va, 8);
        vc += vd;
        v[a] = va;
        v[b] = Integer.rotateRight(vb ^ vc, 7);
        v[c] = vc;
        v[d] = vd;
    }
}
