package com.sluice.peer;

/**
 * The work on one order, without Kafka: read, identify, classify, split, route. One for each task; what it gives is
 * valid until the next order.
 */
final class Decider {
    /** How far placed_at may lie from the time of the order's record, ms. */
    private static final long WINDOW_MS = 600_000;
    /** What Sluice says of an order that can't be split. */
    private static final String TOO_MANY = "the order needs more than " + Parcels.MAX + " parcels";

    final Order order = new Order();
    final Parcels parcels = new Parcels();
    /** Why the whole order is dead-lettered, or null. */
    String deadLetter;

    private final Classifier classifier;
    private final Router router = new Router();
    private final OrderReader reader = new OrderReader();
    private final Identity identity = new Identity();
    private final byte[] titleBuffer = Rules.buffer();

    Decider(Classifier classifier) {
        this.classifier = classifier;
    }

    int rulesVersion() {
        return classifier.version();
    }

    /** Decides one order. */
    void decide(byte[] key, byte[] json, long acceptedAtMs) throws Unfit {
        int merchantLength = identity.fingerprint(key);
        reader.read(json, order);
        if (order.placedAtMs < 0 || Math.abs(order.placedAtMs - acceptedAtMs) > WINDOW_MS) {
            throw new Unfit("placed_at lies outside the window");
        }
        order.key = key;
        order.merchantLength = merchantLength;
        order.acceptedAtMs = acceptedAtMs;
        order.fingerprintHigh = identity.high();
        order.idUpper = OrderId.upper(order.placedAtMs, identity.high());
        order.idLower = identity.low();
        deadLetter = split() ? null : TOO_MANY;
        if (deadLetter != null) {
            parcels.clear();
        }
        for (int parcel = 0; parcel < parcels.count; parcel++) {
            parcels.carrier[parcel] = router.pick(parcels.weight[parcel], order.idLower);
        }
    }

    private boolean split() {
        parcels.clear();
        for (int line = 0; line < order.lines; line++) {
            long known = classifier.classify(order, line, titleBuffer);
            int group = Goods.group((int) (known >>> 32));
            if (group != Goods.NO_GROUP
                && !parcels.add(group, line, (int) known, order.quantity[line], Router.MAX_WEIGHT_G)) {
                return false;
            }
        }
        return true;
    }
}
