package com.sluice.peer;

/** Not an order as it should be. Without a stack trace, which would cost more than reading the order. */
final class Unfit extends Exception {
    private static final long serialVersionUID = 1;

    Unfit(String reason) {
        super(reason, null, false, false);
    }
}
