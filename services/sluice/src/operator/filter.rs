//! Which events are wanted. Every kind of filter that is given must fit; one that is given more than once fits by any of them.

use clap::Args;
use sluice_schemas::milestone::Milestone;

use super::event::{Event, kind_of};

/// What a time line says that is no milestone.
const REMARKS: [&str; 12] = [
    "rejected",
    "given_up",
    "unknown",
    "on_hold",
    "delivery_delayed",
    "delivery_failed",
    "conflict",
    "void_requested",
    "void_refused",
    "void_unknown",
    "return_requested",
    "replayed",
];

/// The filters of `sluice tap`.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Filters (each may be repeated: any of them)")]
pub struct FilterArgs {
    /// Events about this merchant's orders
    #[arg(long = "merchant", value_name = "ID")]
    pub merchants: Vec<String>,
    /// Events that name this carrier
    #[arg(long = "carrier", value_name = "ID")]
    pub carriers: Vec<String>,
    /// Events that tell of this step, as on an order's time line: carrier_accepted, delivered, dead_lettered, rejected …
    #[arg(long = "milestone", value_name = "NAME", value_parser = milestone)]
    pub milestones: Vec<String>,
    /// Events after which the order has this status; asks for the order of every event that fits otherwise
    #[arg(long = "status", value_name = "NAME", value_parser = status)]
    pub statuses: Vec<String>,
    /// Events of this type, such as parcel.settled
    #[arg(long = "type", value_name = "TYPE", value_parser = kind_of)]
    pub kinds: Vec<&'static str>,
}

fn status(name: &str) -> Result<String, String> {
    let known = Milestone::ALL.map(Milestone::name);
    match known.contains(&name) {
        true => Ok(name.to_owned()),
        false => Err(format!("expected one of {}", known.join(", "))),
    }
}

fn milestone(name: &str) -> Result<String, String> {
    match REMARKS.contains(&name) {
        true => Ok(name.to_owned()),
        false => status(name).map_err(|error| format!("{error}, {}", REMARKS.join(", "))),
    }
}

impl FilterArgs {
    /// Whether the event itself fits; its order's status is another matter.
    pub(super) fn fits(&self, event: &Event) -> bool {
        let any = |wanted: &[String], fits: &dyn Fn(&str) -> bool| wanted.is_empty() || wanted.iter().any(|w| fits(w));
        any(&self.merchants, &|merchant| event.merchant() == merchant)
            && (self.kinds.is_empty() || self.kinds.contains(&event.kind.as_str()))
            && any(&self.carriers, &|carrier| event.names_carrier(carrier))
            && (self.milestones.is_empty()
                || event.steps().iter().any(|step| self.milestones.contains(&step.milestone)))
    }

    /// Whether an order with this status fits.
    pub(super) fn fits_status(&self, status: &str) -> bool {
        self.statuses.is_empty() || self.statuses.iter().any(|wanted| wanted == status)
    }
}

#[cfg(test)]
mod tests {
    use super::{super::event::tests::sample, *};

    #[test]
    fn every_filter_must_fit() {
        let all = || FilterArgs::default();
        let of = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        let (accepted, settled) = (sample("order-accepted"), sample("parcel-settled"));
        assert!(all().fits(&accepted) && all().fits(&settled) && all().fits_status("delivered"));
        for (filter, fits) in [
            (FilterArgs { merchants: of(&["m-1"]), ..all() }, [true, true]),
            (FilterArgs { merchants: of(&["m-2"]), ..all() }, [false, false]),
            (FilterArgs { merchants: of(&["m-2", "m-1"]), ..all() }, [true, true]),
            (FilterArgs { carriers: of(&["strong"]), ..all() }, [true, true]),
            (FilterArgs { carriers: of(&["stron"]), ..all() }, [false, false]),
            (FilterArgs { milestones: of(&["rejected"]), ..all() }, [false, true]),
            (FilterArgs { milestones: of(&["dead_lettered"]), ..all() }, [true, false]),
            (FilterArgs { milestones: of(&["carrier_requested"]), ..all() }, [true, true]),
            (FilterArgs { kinds: vec![kind_of("order.accepted").unwrap()], ..all() }, [true, false]),
            (FilterArgs { carriers: of(&["strong"]), milestones: of(&["rejected"]), ..all() }, [false, true]),
            (FilterArgs { merchants: of(&["m-2"]), milestones: of(&["rejected"]), ..all() }, [false, false]),
        ] {
            assert_eq!([&accepted, &settled].map(|event| filter.fits(event)), fits, "{filter:?}");
        }
        let delivered = FilterArgs { statuses: of(&["delivered", "returned"]), ..all() };
        assert_eq!(["delivered", "returned", "accepted"].map(|s| delivered.fits_status(s)), [true, true, false]);
    }

    #[test]
    fn what_no_event_can_be_is_wrong_usage() {
        assert!(milestone("delivered").is_ok() && milestone("void_refused").is_ok() && status("delivered").is_ok());
        assert!(milestone("arrived").unwrap_err().contains("picked_up"));
        assert!(status("rejected").unwrap_err().contains("dead_lettered"));
    }
}
