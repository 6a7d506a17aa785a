from . import (
    artifacts as artifacts,
    backtest as backtest,
    fleet as fleet,
    judgement as judgement,
    markdown as markdown,
    plots as plots,
    replay as replay,
    replay_charts as replay_charts,
    replay_panels as replay_panels,
)
