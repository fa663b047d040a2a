//! The part of a manifest that a simulated carrier looks at, borrowed from the request's bytes.

use std::borrow::Cow;

use serde::Deserialize;

/// Most shipments of one manifest.
pub const MAX_SHIPMENTS: usize = 10_000;
/// Longest id of a manifest or shipment, in bytes.
pub const MAX_ID_BYTES: usize = 64;

/// What was POSTed. Keys that are not named here (addresses, lines, …) are skipped without being built.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Manifest<'a> {
    #[serde(borrow)]
    pub(super) manifest_id: Cow<'a, str>,
    /// What is to be brought back is among them.
    #[serde(borrow)]
    pub(super) shipments: Vec<Shipment<'a>>,
    #[serde(borrow, default)]
    pub(super) returns: Vec<Shipment<'a>>,
    #[serde(borrow, default)]
    pub(super) voids: Vec<Void<'a>>,
}

/// One shipment to forget.
#[derive(Debug, Deserialize)]
pub(super) struct Void<'a> {
    #[serde(borrow)]
    pub(super) void_id: Cow<'a, str>,
    #[serde(borrow)]
    pub(super) shipment_id: Cow<'a, str>,
}

/// One parcel to take.
#[derive(Debug, Deserialize)]
pub(super) struct Shipment<'a> {
    #[serde(borrow)]
    pub(super) shipment_id: Cow<'a, str>,
    pub(super) weight_g: u64,
}

/// Why a body is no manifest.
#[derive(Debug, thiserror::Error)]
pub(super) enum ManifestError {
    #[error("{0}")]
    Json(#[from] serde_json::Error),
    #[error("{0} is 1 to {MAX_ID_BYTES} visible ASCII characters without quotes or backslashes")]
    Id(&'static str),
    #[error("a manifest has at most {MAX_SHIPMENTS} shipments, this one has {0}")]
    TooMany(usize),
}

impl<'a> Manifest<'a> {
    pub(super) fn parse(body: &'a [u8]) -> Result<Self, ManifestError> {
        let mut manifest: Self = serde_json::from_slice(body)?;
        manifest.shipments.append(&mut manifest.returns);
        let asked = manifest.shipments.len() + manifest.voids.len();
        if asked > MAX_SHIPMENTS {
            return Err(ManifestError::TooMany(asked));
        }
        if !is_id(&manifest.manifest_id) {
            return Err(ManifestError::Id("manifest_id"));
        }
        if !manifest.shipments.iter().all(|shipment| is_id(&shipment.shipment_id)) {
            return Err(ManifestError::Id("shipment_id"));
        }
        if !manifest.voids.iter().all(|void| is_id(&void.void_id) && is_id(&void.shipment_id)) {
            return Err(ManifestError::Id("void_id"));
        }
        Ok(manifest)
    }
}

/// Ids go verbatim into the ledger's columns and into the answer's JSON, so nothing in them may need escaping.
pub(super) fn is_id(text: &str) -> bool {
    (1..=MAX_ID_BYTES).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'"' && byte != b'\\')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ids_and_weights_are_borrowed_and_the_rest_is_skipped() {
        let body = br#"{"manifest_id":"m-1","expires_at":"2026-11-11T00:00:00Z","shipments":[
            {"shipment_id":"o-1-1","order_id":"o","merchant":"x","handling":"frozen","weight_g":700,
             "ship_to":{"name":"A \"B\""},"lines":[{"sku":"1","quantity":2}]}]}"#;
        let manifest = Manifest::parse(body).unwrap();
        assert!(matches!(manifest.manifest_id, Cow::Borrowed("m-1")));
        assert!(matches!(manifest.shipments[0].shipment_id, Cow::Borrowed("o-1-1")));
        assert_eq!(manifest.shipments[0].weight_g, 700);
    }

    #[test]
    fn ids_that_would_break_a_line_are_refused() {
        let with = |id: &str| format!(r#"{{"manifest_id":"{id}","shipments":[]}}"#);
        for id in ["", "a b", "a\\tb", "a\\nb", "\\u0022", "\\\\", "é", &"x".repeat(MAX_ID_BYTES + 1)] {
            let body = with(id);
            assert!(matches!(Manifest::parse(body.as_bytes()), Err(ManifestError::Id("manifest_id"))), "{id:?}");
        }
        Manifest::parse(with(&"x".repeat(MAX_ID_BYTES)).as_bytes()).unwrap();
    }

    #[test]
    fn the_number_of_shipments_is_bounded() {
        let with = |count: usize| {
            let shipments = vec![r#"{"shipment_id":"o-1-1","weight_g":1}"#; count].join(",");
            format!(r#"{{"manifest_id":"m","shipments":[{shipments}]}}"#)
        };
        assert_eq!(Manifest::parse(with(MAX_SHIPMENTS).as_bytes()).unwrap().shipments.len(), MAX_SHIPMENTS);
        let body = with(MAX_SHIPMENTS + 1);
        assert!(matches!(Manifest::parse(body.as_bytes()), Err(ManifestError::TooMany(_))));
    }
}
