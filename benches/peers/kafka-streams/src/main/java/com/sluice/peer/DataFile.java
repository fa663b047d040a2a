package com.sluice.peer;

import com.github.luben.zstd.Zstd;
import java.io.IOException;
import java.io.InputStream;
import java.io.UncheckedIOException;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.charset.StandardCharsets;
import java.util.Arrays;
import java.util.zip.CRC32C;

/**
 * Sluice's data files: magic (8 bytes), version, rows, unpacked length, CRC32C (u32 little endian each), then columns
 * in a zstd frame; every column stands behind its length. Numbers in a column are unsigned LEB128.
 */
final class DataFile {
    private static final int HEADER = 24;

    final int rows;
    /** The file's checksum, which Sluice takes for its version. */
    final int crc;
    private final ByteBuffer payload;

    DataFile(String resource, String magic) {
        byte[] bytes = resource(resource);
        ByteBuffer head = ByteBuffer.wrap(bytes).order(ByteOrder.LITTLE_ENDIAN);
        if (!magic.equals(new String(bytes, 0, 8, StandardCharsets.US_ASCII)) || head.getInt(8) != 1) {
            throw new IllegalStateException(resource + " is not a data file of version 1");
        }
        rows = head.getInt(12);
        crc = head.getInt(20);
        CRC32C computed = new CRC32C();
        computed.update(bytes, 0, HEADER - 4);
        computed.update(bytes, HEADER, bytes.length - HEADER);
        if ((int) computed.getValue() != crc) {
            throw new IllegalStateException(resource + " is damaged: its checksum doesn't hold");
        }
        byte[] packed = Arrays.copyOfRange(bytes, HEADER, bytes.length);
        payload = ByteBuffer.wrap(Zstd.decompress(packed, head.getInt(16))).order(ByteOrder.LITTLE_ENDIAN);
    }

    static byte[] resource(String name) {
        try (InputStream in = DataFile.class.getResourceAsStream("/" + name)) {
            if (in == null) {
                throw new IllegalStateException(name + " is not in the jar");
            }
            return in.readAllBytes();
        } catch (IOException e) {
            throw new UncheckedIOException(e);
        }
    }

    /** The next column. */
    Column column() {
        byte[] bytes = new byte[payload.getInt()];
        payload.get(bytes);
        return new Column(bytes);
    }

    /** Values one after another. */
    static final class Column {
        private final byte[] bytes;
        private int at;

        private Column(byte[] bytes) {
            this.bytes = bytes;
        }

        String[] lines() {
            return new String(bytes, StandardCharsets.UTF_8).split("\n", -1);
        }

        int unsignedByte() {
            return bytes[at++] & 0xff;
        }

        int number() {
            int value = 0;
            for (int shift = 0;; shift += 7) {
                byte next = bytes[at++];
                value |= (next & 0x7f) << shift;
                if (next >= 0) {
                    return value;
                }
            }
        }
    }
}
