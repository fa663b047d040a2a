//! What checkout's part of the API looks like to its clients. The decoder doesn't use these types; a test holds their
//! bounds to the ones it does use.

use serde::Serialize;
use sluice_http::{ApiKeySecurity, FieldError, ProblemBody};
use utoipa::{IntoParams, IntoResponses, OpenApi, ToSchema};

/// Checkout's part of the document.
#[derive(OpenApi)]
#[openapi(
    info(title = "Sluice", description = "Orders in, parcels out."),
    paths(crate::single::place_order, crate::batch::place_orders),
    components(schemas(
        Order, BatchOrder, Address, Line, Answer, BatchResult, Taken, Refused, ProblemBody<'_>, FieldError
    )),
    tags((name = "orders", description = "Placing orders and following them.")),
    modifiers(&ApiKeySecurity)
)]
pub struct Document;

/// Names one request of a merchant.
#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
#[expect(dead_code, reason = "describes the request, never built")]
pub struct IdempotencyKeyHeader {
    /// Names this request: the same on every retry, another for every order. Visible ASCII; may be sent as a
    /// quoted string, which then has 255 characters at most without its quotes.
    #[param(
        rename = "Idempotency-Key",
        min_length = 1,
        max_length = 255,
        pattern = r#"^([!#-~][!-~]*|"([!#-\[\]-~]|\\["\\])+")$"#,
        example = "8e03978e-40d5-43e8-bc93-6894a57f9324"
    )]
    idempotency_key: String,
}

/// An order as a storefront posts it. Lengths are in bytes of UTF-8; control characters are refused.
#[derive(Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Order {
    /// The merchant's id of the customer.
    #[schema(min_length = 1, max_length = 64, pattern = r"^[^\u0000-\u001f\u007f-\u009f]+$", example = "c-77")]
    customer: String,
    /// When the customer pressed the button (RFC 3339, kept to the millisecond), within 10 minutes of now unless the
    /// deployment says otherwise. A retry sends the same.
    #[schema(format = DateTime, example = "2026-11-11T00:00:00.123Z")]
    placed_at: String,
    /// ISO 4217.
    #[schema(min_length = 3, max_length = 3, pattern = "^[A-Z]{3}$", example = "USD")]
    currency: String,
    ship_to: Address,
    #[schema(min_items = 1, max_items = 100)]
    lines: Vec<Line>,
}

/// One line of a batch: an order with its idempotency key.
#[derive(Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct BatchOrder {
    /// Names this order: the same on every retry, another for every order.
    #[schema(min_length = 1, max_length = 255, pattern = "^[!-~]+$", example = "8e03978e-40d5-43e8-bc93-6894a57f9324")]
    idempotency_key: String,
    /// The merchant's id of the customer.
    #[schema(min_length = 1, max_length = 64, pattern = r"^[^\u0000-\u001f\u007f-\u009f]+$", example = "c-77")]
    customer: String,
    /// When the customer pressed the button (RFC 3339, kept to the millisecond), within 10 minutes of now unless the
    /// deployment says otherwise. A retry sends the same.
    #[schema(format = DateTime, example = "2026-11-11T00:00:00.123Z")]
    placed_at: String,
    /// ISO 4217.
    #[schema(min_length = 3, max_length = 3, pattern = "^[A-Z]{3}$", example = "USD")]
    currency: String,
    ship_to: Address,
    #[schema(min_items = 1, max_items = 100)]
    lines: Vec<Line>,
}

/// Where an order goes.
#[derive(Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Address {
    /// Recipient.
    #[schema(
        min_length = 1,
        max_length = 100,
        pattern = r"^[^\u0000-\u001f\u007f-\u009f]+$",
        example = "Ada Lovelace"
    )]
    name: String,
    /// Street and number.
    #[schema(
        min_length = 1,
        max_length = 100,
        pattern = r"^[^\u0000-\u001f\u007f-\u009f]+$",
        example = "12 Mill Lane"
    )]
    street: String,
    /// Town.
    #[schema(min_length = 1, max_length = 100, pattern = r"^[^\u0000-\u001f\u007f-\u009f]+$", example = "Springfield")]
    city: String,
    /// As written in that country; empty where there are none.
    #[schema(min_length = 0, max_length = 16, pattern = r"^[^\u0000-\u001f\u007f-\u009f]*$", example = "12345")]
    postal_code: String,
    /// ISO 3166-1 alpha-2.
    #[schema(min_length = 2, max_length = 2, pattern = "^[A-Z]{2}$", example = "US")]
    country: String,
}

/// One line of an order.
#[derive(Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Line {
    /// The merchant's stock keeping unit.
    #[schema(min_length = 1, max_length = 64, pattern = r"^[^\u0000-\u001f\u007f-\u009f]+$", example = "1029743")]
    sku: String,
    /// What the customer saw.
    #[schema(
        min_length = 1,
        max_length = 200,
        pattern = r"^[^\u0000-\u001f\u007f-\u009f]+$",
        example = "YOGURT | 6 OZ"
    )]
    title: String,
    /// Units.
    #[schema(minimum = 1, maximum = 1000, example = 2)]
    quantity: u32,
    /// Price of one unit in minor units of the currency.
    #[schema(minimum = 0, maximum = 1_000_000_000, example = 129)]
    unit_price: u64,
}

/// The order is durable.
#[derive(Serialize, ToSchema)]
pub struct Answer {
    /// The order's id: 26 characters that sort by `placed_at`.
    #[schema(
        min_length = 26,
        max_length = 26,
        pattern = "^[0-7][0-9A-HJKMNP-TV-Z]{25}$",
        example = "01M6VZ4W3V00J8Z8M3C0V9S1QK"
    )]
    id: String,
    /// What it is at this moment; later states are read at `GET /v1/orders/{id}`.
    status: Accepted,
    /// As sent, in UTC to the millisecond.
    #[schema(format = DateTime, example = "2026-11-11T00:00:00.123Z")]
    placed_at: String,
}

/// The status of an order that was just taken.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[expect(dead_code, reason = "describes the answer, which is written without it")]
pub enum Accepted {
    /// Durable.
    Accepted,
}

/// The result of one line of a batch.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
#[expect(dead_code, reason = "describes the answer, which is written without it")]
pub enum BatchResult {
    /// It is durable.
    Taken(Taken),
    /// It is not, and why.
    Refused(Box<Refused>),
}

/// A line that is durable.
#[derive(Serialize, ToSchema)]
pub struct Taken {
    /// Which line, from 1.
    #[schema(minimum = 1, maximum = 10_000)]
    line: u32,
    /// As the order would have got in a request of its own.
    #[schema(minimum = 201, maximum = 201)]
    status: u16,
    /// The order's id.
    #[schema(min_length = 26, max_length = 26, pattern = "^[0-7][0-9A-HJKMNP-TV-Z]{25}$")]
    id: String,
    /// What `POST /v1/orders` would have answered.
    order: Answer,
    /// True if the order was taken before; else absent.
    #[schema(required = false)]
    replayed: bool,
}

/// A line that was not taken.
#[derive(Serialize, ToSchema)]
pub struct Refused {
    /// Which line, from 1.
    #[schema(minimum = 1, maximum = 10_000)]
    line: u32,
    /// As the order would have got in a request of its own: 400, 413, 422 or 503.
    #[schema(minimum = 400, maximum = 599)]
    status: u16,
    /// When to send the line again, seconds; with 503.
    #[schema(minimum = 1, required = false)]
    retry_after: u32,
    problem: ProblemBody<'static>,
}

/// What can be wrong with one order.
#[derive(IntoResponses)]
#[expect(dead_code, reason = "describes the answers, which are written without it")]
pub enum OrderProblems {
    /// Not JSON, or no usable Idempotency-Key.
    #[response(status = 400, content_type = "application/problem+json")]
    Malformed(ProblemBody<'static>),
    /// The body did not arrive in time.
    #[response(status = 408, content_type = "application/problem+json")]
    Slow(ProblemBody<'static>),
    /// More than 65,536 bytes.
    #[response(status = 413, content_type = "application/problem+json")]
    TooLarge(ProblemBody<'static>),
    /// Not `application/json`, or compressed.
    #[response(status = 415, content_type = "application/problem+json")]
    Type(ProblemBody<'static>),
    /// Fields are not as they should be, `placed_at` is out of the window, or the key is known to be used for another
    /// order.
    #[response(status = 422, content_type = "application/problem+json")]
    Invalid(ProblemBody<'static>),
    /// This merchant is beyond its rate limit, or has more in flight than its share.
    #[response(status = 429, content_type = "application/problem+json",
        headers(("Retry-After" = u32, description = "Seconds")))]
    Share(ProblemBody<'static>),
    /// There is no room now, or the engine is not ready. Nothing was kept, unless the log of a cluster did not answer in
    /// time: then it is open, and a retry with the same key is safe.
    #[response(status = 503, content_type = "application/problem+json",
        headers(("Retry-After" = u32, description = "Seconds")))]
    Busy(ProblemBody<'static>),
}

/// What can be wrong with a batch as a whole.
#[derive(IntoResponses)]
#[expect(dead_code, reason = "describes the answers, which are written without it")]
pub enum BatchProblems {
    /// No lines, or the body broke off.
    #[response(status = 400, content_type = "application/problem+json")]
    Malformed(ProblemBody<'static>),
    /// The body did not arrive in time; nothing was taken.
    #[response(status = 408, content_type = "application/problem+json")]
    Slow(ProblemBody<'static>),
    /// More than 10,000 lines or 16 MiB; nothing was taken.
    #[response(status = 413, content_type = "application/problem+json")]
    TooLarge(ProblemBody<'static>),
    /// Not `application/x-ndjson`, or compressed.
    #[response(status = 415, content_type = "application/problem+json")]
    Type(ProblemBody<'static>),
    /// This merchant is beyond its rate limit, or has more in flight than its share.
    #[response(status = 429, content_type = "application/problem+json",
        headers(("Retry-After" = u32, description = "Seconds")))]
    Share(ProblemBody<'static>),
    /// There is no room now, or the engine is not ready. Nothing was kept, unless the log of a cluster did not answer in
    /// time: then it is open, and a retry with the same key is safe.
    #[response(status = 503, content_type = "application/problem+json",
        headers(("Retry-After" = u32, description = "Seconds")))]
    Busy(ProblemBody<'static>),
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use sluice_domain::limits;

    use super::*;

    fn document() -> Value {
        serde_json::to_value(Document::openapi()).unwrap()
    }

    #[test]
    fn the_bounds_are_those_of_the_code() {
        let document = document();
        let schema = |path: &str| {
            let (name, field) = path.split_once('.').unwrap();
            document["components"]["schemas"][name]["properties"][field].clone()
        };
        for order in ["Order", "BatchOrder"] {
            assert_eq!(schema(&format!("{order}.customer"))["maxLength"], limits::MAX_CUSTOMER);
            assert_eq!(schema(&format!("{order}.lines"))["minItems"], 1);
            assert_eq!(schema(&format!("{order}.lines"))["maxItems"], limits::MAX_LINES);
            assert_eq!(document["components"]["schemas"][order]["additionalProperties"], json!(false));
        }
        assert_eq!(schema("BatchOrder.idempotency_key")["maxLength"], limits::MAX_IDEMPOTENCY_KEY);
        for field in ["name", "street", "city"] {
            assert_eq!(schema(&format!("Address.{field}"))["maxLength"], limits::MAX_ADDRESS_FIELD);
        }
        assert_eq!(schema("Address.postal_code")["maxLength"], limits::MAX_POSTAL_CODE);
        assert_eq!(schema("Line.sku")["maxLength"], limits::MAX_SKU);
        assert_eq!(schema("Line.title")["maxLength"], limits::MAX_TITLE);
        assert_eq!(schema("Line.quantity")["minimum"], 1);
        assert_eq!(schema("Line.quantity")["maximum"], limits::MAX_QUANTITY);
        assert_eq!(schema("Line.unit_price")["minimum"], 0);
        assert_eq!(schema("Line.unit_price")["maximum"], limits::MAX_UNIT_PRICE);
        assert_eq!(schema("Taken.line")["maximum"], limits::MAX_BATCH_LINES);
        let single = &document["paths"]["/v1/orders"]["post"];
        let key = &single["parameters"][0];
        assert_eq!(
            (&key["name"], &key["in"], &key["required"]),
            (&json!("Idempotency-Key"), &json!("header"), &json!(true))
        );
        assert_eq!(key["schema"]["maxLength"], limits::MAX_IDEMPOTENCY_KEY);
    }

    #[test]
    fn every_answer_is_described() {
        let document = document();
        for (path, good) in [("/v1/orders", "201"), ("/v1/orders:batch", "200")] {
            let operation = &document["paths"][path]["post"];
            assert_eq!(operation["security"], json!([{"api_key": []}]));
            let responses = operation["responses"].as_object().unwrap();
            for status in [good, "400", "401", "405", "408", "413", "415", "429", "503"] {
                assert!(responses.contains_key(status), "{path} {status}");
            }
            for (status, response) in responses {
                let media = if status != good {
                    "application/problem+json"
                } else if good == "201" {
                    "application/json"
                } else {
                    "application/x-ndjson"
                };
                assert!(response["content"][media]["schema"]["$ref"].is_string(), "{path} {status} {response}");
            }
            assert!(responses["503"]["headers"]["Retry-After"].is_object());
        }
        let single = &document["paths"]["/v1/orders"]["post"]["responses"];
        assert!(single["422"].is_object() && single["201"]["headers"]["Idempotent-Replayed"].is_object());
    }

    #[test]
    fn every_reference_leads_somewhere() {
        let document = document();
        let text = document.to_string();
        for reference in text.split("\"$ref\":\"#").skip(1).filter_map(|rest| rest.split('"').next()) {
            assert!(document.pointer(reference).is_some(), "{reference}");
        }
    }
}
