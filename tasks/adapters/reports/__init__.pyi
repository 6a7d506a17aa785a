from . import (
    artifacts as artifacts,
    backtest as backtest,
    fleet as fleet,
    judgement as judgement,
    markdown as markdown,
    page as page,
    plots as plots,
    replay as replay,
    replay_charts as replay_charts,
)
