//! JSON order → encoded record, in one pass and without allocating: strings are borrowed from the request (or, when they
//! have escapes, from a scratch buffer that is reused), checked, and written straight into the submission.
//!
//! It only says yes or no. When it says no, [`crate::diagnose`] reads the order again and says why; both ask
//! [`crate::rules`], and a property test holds them to the same answer.

use std::{fmt, marker::PhantomData, ops::Range};

use serde::de::{self, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use sluice_domain::{Fingerprint, OrderId, SlotCount};
use sluice_http::{Whole, rfc3339};
use sluice_schemas::order::{Head, Line, ShipTo, put_head, put_line};

use crate::rules::{self, TextRule};

/// What an order is judged by besides its own text.
#[derive(Debug, Clone, Copy)]
pub struct Context<'a> {
    /// Whose order it is.
    pub merchant: &'a str,
    /// The deployment's slots.
    pub slots: SlotCount,
    /// ms since the Unix epoch.
    pub now_ms: u64,
    /// How far `placed_at` may lie from now, ms.
    pub window_ms: u64,
}

impl Context<'_> {
    /// Where a `placed_at` lies, and its number if an id can be made of it.
    #[inline]
    pub fn place(&self, placed_at_ms: i64) -> Placed {
        let Ok(ms) = u64::try_from(placed_at_ms) else { return Placed::Impossible };
        if ms > self.now_ms.saturating_add(self.window_ms) {
            Placed::Impossible
        } else if ms.saturating_add(self.window_ms) < self.now_ms {
            Placed::Late(ms)
        } else {
            Placed::InWindow(ms)
        }
    }
}

/// Where a `placed_at` lies. Both ends of the window belong to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Placed {
    /// Within the window; ms since the epoch.
    InWindow(u64),
    /// Before it: only a replay of an order already taken can be answered.
    Late(u64),
    /// After it, or before 1970.
    Impossible,
}

/// Where the idempotency key is.
#[derive(Debug, Clone, Copy)]
pub enum Key<'a> {
    /// It came in a header, and is well-formed.
    Given(&'a str),
    /// It is a field of the order.
    InBody,
}

/// A good order; its record is at the end of the buffer given to [`decode`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decoded {
    /// Its id.
    pub id: OrderId,
    /// The request's fingerprint.
    pub fingerprint: Fingerprint,
    /// Its record within the buffer.
    pub record: Range<usize>,
    /// True if `placed_at` lies before the window.
    pub late: bool,
}

/// Not an order as it should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unfit;

/// Buffers to be reused from one order to the next.
#[derive(Debug, Default)]
pub struct Scratch {
    /// Strings that had escapes, unescaped.
    unescaped: String,
    /// Lines, encoded: they may come before what a record has in front of them.
    lines: Vec<u8>,
}

/// Decodes one order and appends its record to `out`; appends nothing if it is unfit.
///
/// # Errors
/// [`Unfit`] if the text is not JSON, or not an order that keeps every rule.
pub fn decode(
    text: &str,
    key: Key<'_>,
    context: &Context<'_>,
    scratch: &mut Scratch,
    out: &mut Vec<u8>,
) -> Result<Decoded, Unfit> {
    scratch.unescaped.clear();
    scratch.lines.clear();
    let mut json = serde_json::Deserializer::from_str(text);
    let seed = OrderSeed { scratch, key_in_body: matches!(key, Key::InBody) };
    let draft = seed.deserialize(&mut json).map_err(|_| Unfit)?;
    json.end().map_err(|_| Unfit)?;

    let (placed_at_ms, late) = match context.place(draft.placed_at_ms) {
        Placed::InWindow(ms) => (ms, false),
        Placed::Late(ms) => (ms, true),
        Placed::Impossible => return Err(Unfit),
    };
    let unescaped = &scratch.unescaped;
    let key = match key {
        Key::Given(key) => key,
        Key::InBody => draft.key.ok_or(Unfit)?.of(unescaped),
    };
    let fingerprint = Fingerprint::of(context.merchant, key);
    let id = OrderId::new(placed_at_ms, fingerprint, context.slots);
    let start = out.len();
    let to = draft.ship_to;
    put_head(
        out,
        &Head {
            id: id.0,
            fingerprint_high: fingerprint.high(),
            accepted_at_ms: context.now_ms,
            merchant: context.merchant,
            customer: draft.customer.of(unescaped),
            currency: draft.currency.of(unescaped),
            ship_to: ShipTo {
                name: to.name.of(unescaped),
                street: to.street.of(unescaped),
                city: to.city.of(unescaped),
                postal_code: to.postal_code.of(unescaped),
                country: to.country.of(unescaped),
            },
            lines: draft.lines,
        },
    );
    out.extend_from_slice(&scratch.lines);
    Ok(Decoded { id, fingerprint, record: start..out.len(), late })
}

/// A string of the request, or a place in [`Scratch::unescaped`].
#[derive(Clone, Copy)]
enum Text<'de> {
    Borrowed(&'de str),
    Unescaped { start: usize, end: usize },
}

impl<'de> Text<'de> {
    #[inline]
    fn of<'a>(self, unescaped: &'a str) -> &'a str
    where
        'de: 'a,
    {
        match self {
            Text::Borrowed(text) => text,
            Text::Unescaped { start, end } => unescaped.get(start..end).unwrap_or_default(),
        }
    }
}

struct Draft<'de> {
    customer: Text<'de>,
    placed_at_ms: i64,
    currency: Text<'de>,
    ship_to: Address<'de>,
    lines: usize,
    key: Option<Text<'de>>,
}

struct Address<'de> {
    name: Text<'de>,
    street: Text<'de>,
    city: Text<'de>,
    postal_code: Text<'de>,
    country: Text<'de>,
}

/// Nobody reads the message: the diagnosis words it.
#[cold]
fn unfit<E: de::Error>() -> E {
    E::custom("unfit")
}

/// Puts a field's value in its place; a field given twice is unfit.
#[inline]
fn once<T, E: de::Error>(slot: &mut Option<T>, value: T) -> Result<(), E> {
    if slot.replace(value).is_some() { Err(unfit()) } else { Ok(()) }
}

/// A required field.
#[inline]
fn required<T, E: de::Error>(slot: Option<T>) -> Result<T, E> {
    slot.ok_or_else(unfit)
}

/// Reads a field's name; one that `of` doesn't know is unfit.
struct Name<T, F>(F, PhantomData<T>);

impl<T, F: Fn(&str) -> Option<T>> Name<T, F> {
    fn new(of: F) -> Self {
        Self(of, PhantomData)
    }
}

impl<'de, T, F: Fn(&str) -> Option<T>> DeserializeSeed<'de> for Name<T, F> {
    type Value = T;

    #[inline]
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<T, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<T, F: Fn(&str) -> Option<T>> Visitor<'_> for Name<T, F> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a known field")
    }

    #[inline]
    fn visit_str<E: de::Error>(self, name: &str) -> Result<T, E> {
        (self.0)(name).ok_or_else(unfit)
    }
}

/// Reads a string that keeps a rule.
struct TextSeed<'s> {
    unescaped: &'s mut String,
    rule: &'static TextRule,
}

impl<'de> DeserializeSeed<'de> for TextSeed<'_> {
    type Value = Text<'de>;

    #[inline]
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Text<'de>, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'de> Visitor<'de> for TextSeed<'_> {
    type Value = Text<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string")
    }

    #[inline]
    fn visit_borrowed_str<E: de::Error>(self, text: &'de str) -> Result<Text<'de>, E> {
        if self.rule.accepts(text) { Ok(Text::Borrowed(text)) } else { Err(unfit()) }
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Text<'de>, E> {
        if !self.rule.accepts(text) {
            return Err(unfit());
        }
        let start = self.unescaped.len();
        self.unescaped.push_str(text);
        Ok(Text::Unescaped { start, end: self.unescaped.len() })
    }
}

/// Reads a time, as ms since the epoch.
struct TimeSeed;

impl<'de> DeserializeSeed<'de> for TimeSeed {
    type Value = i64;

    #[inline]
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<i64, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for TimeSeed {
    type Value = i64;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a time")
    }

    #[inline]
    fn visit_str<E: de::Error>(self, text: &str) -> Result<i64, E> {
        rfc3339::parse(text).ok_or_else(unfit)
    }
}

enum OrderField {
    Customer,
    PlacedAt,
    Currency,
    ShipTo,
    Lines,
    Key,
}

struct OrderSeed<'s> {
    scratch: &'s mut Scratch,
    key_in_body: bool,
}

impl OrderSeed<'_> {
    fn field(name: &str) -> Option<OrderField> {
        Some(match name {
            "customer" => OrderField::Customer,
            "placed_at" => OrderField::PlacedAt,
            "currency" => OrderField::Currency,
            "ship_to" => OrderField::ShipTo,
            "lines" => OrderField::Lines,
            "idempotency_key" => OrderField::Key,
            _ => return None,
        })
    }
}

impl<'de> DeserializeSeed<'de> for OrderSeed<'_> {
    type Value = Draft<'de>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Draft<'de>, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for OrderSeed<'_> {
    type Value = Draft<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an order")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Draft<'de>, A::Error> {
        let Scratch { unescaped, lines } = self.scratch;
        let (mut customer, mut placed_at, mut currency, mut ship_to) = (None, None, None, None);
        let (mut line_count, mut key) = (None, None);
        while let Some(field) = map.next_key_seed(Name::new(Self::field))? {
            let mut text = |map: &mut A, rule| map.next_value_seed(TextSeed { unescaped: &mut *unescaped, rule });
            match field {
                OrderField::Customer => once(&mut customer, text(&mut map, &rules::CUSTOMER)?)?,
                OrderField::Currency => once(&mut currency, text(&mut map, &rules::CURRENCY)?)?,
                OrderField::Key if self.key_in_body => once(&mut key, text(&mut map, &rules::IDEMPOTENCY_KEY)?)?,
                OrderField::Key => return Err(unfit()),
                OrderField::PlacedAt => once(&mut placed_at, map.next_value_seed(TimeSeed)?)?,
                OrderField::ShipTo => once(&mut ship_to, map.next_value_seed(AddressSeed { unescaped })?)?,
                OrderField::Lines => {
                    once(&mut line_count, map.next_value_seed(LinesSeed { unescaped, lines: &mut *lines })?)?;
                }
            }
        }
        Ok(Draft {
            customer: required(customer)?,
            placed_at_ms: required(placed_at)?,
            currency: required(currency)?,
            ship_to: required(ship_to)?,
            lines: required(line_count)?,
            key,
        })
    }
}

enum AddressField {
    Name,
    Street,
    City,
    PostalCode,
    Country,
}

struct AddressSeed<'s> {
    unescaped: &'s mut String,
}

impl AddressSeed<'_> {
    fn field(name: &str) -> Option<AddressField> {
        Some(match name {
            "name" => AddressField::Name,
            "street" => AddressField::Street,
            "city" => AddressField::City,
            "postal_code" => AddressField::PostalCode,
            "country" => AddressField::Country,
            _ => return None,
        })
    }
}

impl<'de> DeserializeSeed<'de> for AddressSeed<'_> {
    type Value = Address<'de>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Address<'de>, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for AddressSeed<'_> {
    type Value = Address<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an address")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Address<'de>, A::Error> {
        let (mut name, mut street, mut city, mut postal_code, mut country) = (None, None, None, None, None);
        while let Some(field) = map.next_key_seed(Name::new(Self::field))? {
            let (slot, rule) = match field {
                AddressField::Name => (&mut name, &rules::ADDRESS),
                AddressField::Street => (&mut street, &rules::ADDRESS),
                AddressField::City => (&mut city, &rules::ADDRESS),
                AddressField::PostalCode => (&mut postal_code, &rules::POSTAL_CODE),
                AddressField::Country => (&mut country, &rules::COUNTRY),
            };
            once(slot, map.next_value_seed(TextSeed { unescaped: &mut *self.unescaped, rule })?)?;
        }
        Ok(Address {
            name: required(name)?,
            street: required(street)?,
            city: required(city)?,
            postal_code: required(postal_code)?,
            country: required(country)?,
        })
    }
}

/// Reads the array of lines into their encoding, and says how many there are.
struct LinesSeed<'s> {
    unescaped: &'s mut String,
    lines: &'s mut Vec<u8>,
}

impl<'de> DeserializeSeed<'de> for LinesSeed<'_> {
    type Value = usize;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<usize, D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for LinesSeed<'_> {
    type Value = usize;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of lines")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<usize, A::Error> {
        let mut count = 0;
        while seq.next_element_seed(LineSeed { unescaped: &mut *self.unescaped, out: &mut *self.lines })?.is_some() {
            count += 1;
            if count > *rules::LINES.end() {
                return Err(unfit());
            }
        }
        if rules::LINES.contains(&count) { Ok(count) } else { Err(unfit()) }
    }
}

enum LineField {
    Sku,
    Title,
    Quantity,
    UnitPrice,
}

struct LineSeed<'s> {
    unescaped: &'s mut String,
    out: &'s mut Vec<u8>,
}

impl LineSeed<'_> {
    fn field(name: &str) -> Option<LineField> {
        Some(match name {
            "sku" => LineField::Sku,
            "title" => LineField::Title,
            "quantity" => LineField::Quantity,
            "unit_price" => LineField::UnitPrice,
            _ => return None,
        })
    }
}

impl<'de> DeserializeSeed<'de> for LineSeed<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for LineSeed<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a line")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let (mut sku, mut title, mut quantity, mut unit_price) = (None, None, None, None);
        while let Some(field) = map.next_key_seed(Name::new(Self::field))? {
            let mut text = |map: &mut A, rule| map.next_value_seed(TextSeed { unescaped: &mut *self.unescaped, rule });
            match field {
                LineField::Sku => once(&mut sku, text(&mut map, &rules::SKU)?)?,
                LineField::Title => once(&mut title, text(&mut map, &rules::TITLE)?)?,
                LineField::Quantity => once(&mut quantity, map.next_value::<Whole>()?.0)?,
                LineField::UnitPrice => once(&mut unit_price, map.next_value::<Whole>()?.0)?,
            }
        }
        let quantity = required::<u64, A::Error>(quantity)?;
        let unit_price = required(unit_price)?;
        if !rules::QUANTITY.contains(&quantity) || !rules::UNIT_PRICE.contains(&unit_price) {
            return Err(unfit());
        }
        let line = Line {
            sku: required::<Text<'_>, A::Error>(sku)?.of(self.unescaped),
            title: required::<Text<'_>, A::Error>(title)?.of(self.unescaped),
            quantity: u32::try_from(quantity).map_err(|_| unfit())?,
            unit_price,
        };
        put_line(self.out, &line);
        Ok(())
    }
}
