from . import (
    artifacts as artifacts,
    backtest as backtest,
    fleet as fleet,
    judgement as judgement,
    page as page,
    plots as plots,
    replay as replay,
    replay_charts as replay_charts,
    rollout as rollout,
)
