//! Every bound of the public API, in one table: requests at n are taken, at n + 1 are refused by name.

/// Lines in one order.
pub const MAX_LINES: usize = 100;
/// Units in one line.
pub const MAX_QUANTITY: u32 = 1_000;
/// Price of one unit, in minor units of the currency.
pub const MAX_UNIT_PRICE: u64 = 1_000_000_000;
/// Bytes of a customer id.
pub const MAX_CUSTOMER: usize = 64;
/// Bytes of an SKU.
pub const MAX_SKU: usize = 64;
/// Bytes of a line's title.
pub const MAX_TITLE: usize = 200;
/// Bytes of each of name, street and city.
pub const MAX_ADDRESS_FIELD: usize = 100;
/// Bytes of a postal code.
pub const MAX_POSTAL_CODE: usize = 16;
/// Bytes of an idempotency key (visible ASCII).
pub const MAX_IDEMPOTENCY_KEY: usize = 255;
/// Bytes of the JSON body of one order.
pub const MAX_ORDER_BYTES: usize = 64 * 1024;
/// Lines of one batch request.
pub const MAX_BATCH_LINES: usize = 10_000;
/// Bytes of one batch request.
pub const MAX_BATCH_BYTES: usize = 16 * 1024 * 1024;
/// Parcels one order may become.
pub const MAX_PARCELS: usize = 200;
/// Return shipments of one order: one a parcel and request.
pub const MAX_RETURNS: usize = 56;
/// Bytes of the JSON body of a return.
pub const MAX_RETURN_BYTES: usize = 64 * 1024;
/// Bytes of a customer's reason for a return.
pub const MAX_RETURN_REASON: usize = 200;
/// Carriers one parcel is offered to before it is dead-lettered.
pub const MAX_ATTEMPTS: u8 = 8;
/// Times that what is dead-lettered of one order is decided anew. Each may add [`MAX_ATTEMPTS`] to a parcel, and all of them
/// stay below [`sluice_schemas::delta::VOID`].
pub const MAX_REPLAYS: u8 = 7;
/// Bytes of a merchant or carrier id.
pub const MAX_PARTY_ID: usize = 32;
/// Bytes of a tracking number.
pub const MAX_TRACKING_NUMBER: usize = 64;
/// Bytes kept of a reason a carrier gives.
pub const MAX_REASON: usize = 200;
/// Remarks kept of one shipment (`on_hold` and the like, which may be told repeatedly).
pub const MAX_REMARKS: usize = 64;
/// Bytes of a carrier's message id.
pub const MAX_MESSAGE_ID: usize = 255;
/// Events of one message of a carrier.
pub const MAX_EVENTS: usize = 1_000;
/// Bytes of one message of a carrier.
pub const MAX_EVENTS_BYTES: usize = 1024 * 1024;
/// Orders on one page of a list.
pub const MAX_LISTED: usize = 100;
/// Webhook endpoints of one merchant that are made over the API.
pub const MAX_WEBHOOKS: usize = 16;
/// Replays to one merchant's webhook endpoints that are under way at once; to one endpoint there is one.
pub const MAX_REPLAYING: usize = 4;
/// Bytes of a webhook endpoint's URL.
pub const MAX_WEBHOOK_URL: usize = 2_048;
/// Bytes of a webhook endpoint's description.
pub const MAX_WEBHOOK_DESCRIPTION: usize = 200;
/// Bytes of a request about webhooks.
pub const MAX_WEBHOOK_BYTES: usize = 16 * 1024;
/// Deliveries in one page of a webhook endpoint's log.
pub const MAX_DELIVERIES: usize = 100;
/// How far `placed_at` may lie from now, ms (the default of `placed_at_window_s`).
pub const DEFAULT_WINDOW_MS: u64 = 10 * 60 * 1_000;
/// Bytes of a reviewer's decision about a parcel.
pub const MAX_REVIEW_BYTES: usize = 1_024;
