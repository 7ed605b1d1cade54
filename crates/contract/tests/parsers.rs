//! Campaigns against the parsers of the contract; each compares with a second reading of the rules,
//! written here without regard to speed.

#[path = "../../campaign.rs"]
mod campaign;
mod campaigns {
    mod head;
    mod requests;
    mod start_ok;
}
