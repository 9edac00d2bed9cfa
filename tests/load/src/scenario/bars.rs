pub(crate) fn run(_lab: &crate::lab::Lab, _asked: &crate::cli::Bars) -> anyhow::Result<()> {
    Ok(())
}
