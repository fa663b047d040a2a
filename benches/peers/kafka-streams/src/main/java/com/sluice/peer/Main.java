package com.sluice.peer;

import java.util.Set;

/** The command line; the README describes it. */
public final class Main {
    private static final String USAGE = """
        usage: java -jar kafka-streams-peer.jar COMMAND --brokers HOST:PORT --prefix PREFIX ...
          load    --orders N [--partitions 8] [--seed 42] [--from FILE|-] [--restamp]
          run     --mode stateless|store [--threads 2] [--commit-interval-ms 100] [--application-id ID]
                  [--state-dir DIR] [--set kafka.setting=value]...
                  [--ingest N [--partitions 8] [--seed 42]]  (sends the orders, too, as load does)
          settle  (feeds an acceptance for each shipment, for a second run in mode store)
          check
        """;

    private Main() {
    }

    /** Exit code 0: done; 1: failed, or the check found something; 2: wrong usage. */
    public static void main(String[] arguments) throws Exception {
        String command = arguments.length == 0 ? "" : arguments[0];
        boolean good = true;
        try {
            switch (command) {
                case "load" -> Load.run(new Options(arguments,
                    Set.of("brokers", "prefix", "orders", "partitions", "seed", "from", "restamp")));
                case "run" -> Run.run(new Options(arguments, Set.of("brokers", "prefix", "mode", "threads",
                    "commit-interval-ms", "application-id", "state-dir", "set", "ingest", "partitions", "seed")));
                case "settle" -> Load.settle(new Options(arguments, Set.of("brokers", "prefix")));
                case "check" -> good = Check.run(new Options(arguments, Set.of("brokers", "prefix")));
                default -> throw new IllegalArgumentException("unknown command");
            }
        } catch (IllegalArgumentException e) {
            System.err.println(e.getMessage());
            System.err.print(USAGE);
            System.exit(2);
        }
        System.exit(good ? 0 : 1);
    }
}
