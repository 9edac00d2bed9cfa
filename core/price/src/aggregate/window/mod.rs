//! Windows: averages and sums over the last minutes or hours, in bounded memory.

mod day;
mod ema;
mod twap;
mod volume;

pub(super) use self::{
    day::DayWindow,
    ema::Ema,
    twap::Twap,
    volume::{Turnover, VolumeWindow},
};
