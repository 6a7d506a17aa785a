"""All errors that a user can fix, in one tree.

Every message gives the place, what was found, what was expected and what to do. Any other exception is a bug in
Perennial.
"""


class PerennialError(Exception):
    """Base of all errors whose message is sufficient for the user, without a traceback."""


# model file


class ModelConfigError(PerennialError, ValueError):
    """A model's YAML file is missing, unreadable or contains a value that is not accepted."""


class NoModels(ModelConfigError):
    """The models' folder holds no model's file."""


class EstimatorError(PerennialError):
    """The YAML names an estimator or a parameter that cannot be used."""


class UnknownPolicy(PerennialError):
    """The back-test has no policy of this name."""


class MetricError(PerennialError, ValueError):
    """A metric of the user's own cannot be computed."""


class TriggerError(PerennialError, RuntimeError):
    """A trigger of the user's own raised, or returned something else than a result."""


class SuiteError(PerennialError, ValueError):
    """A suite cannot be read, or contains an expectation that Great Expectations does not know."""


class TimeAhead(PerennialError):
    """The requested time for a live model is in the future. Nothing was read."""


# data


class SourceError(PerennialError, ValueError):
    """A source of rows is missing, unreadable or does not match the model's YAML file."""


class SourceUnreachable(SourceError):
    """A host, bucket or database did not answer; a retry may succeed."""


class SourceEmpty(SourceError):
    """The source has no rows of the window (yet)."""


class LakeError(PerennialError, RuntimeError):
    """Stored rows are missing or altered, or the rows cannot be stored as requested."""


class FeatureError(PerennialError):
    """The rows lack a column that the model reads, or have it in a type that the model cannot read."""


class MatrixError(PerennialError, ValueError):
    """A performance matrix cannot be simulated; the message gives what was found and what is expected."""


class TrialFailed(PerennialError):
    """The back-test of a new model's file did not finish; the message says why."""


class NothingToReplay(PerennialError):
    """None of the selected models has a finite recorded history."""


# training


class TooEarly(PerennialError):
    """There are no rows to train on yet."""


class TrainingRefused(PerennialError):
    """These rows must not be used for training; a retry with the same rows cannot succeed."""


class TrainingFailed(TrainingRefused):
    """A command or a flow of the user's own failed, took too long, or left no model that can be used."""


class ObservationRefused(PerennialError):
    """The history of somebody else's model cannot be a reference for its later windows."""


# devices


class EdgeError(PerennialError):
    """A model cannot be exported to a device, or what a device sent back cannot be used."""


class ExportRefused(EdgeError):
    """This version cannot run on a device, or the folder is taken. Nothing was exported."""


class UpdateRefused(EdgeError):
    """An update of a device does not become a challenger; the subclasses say why. Nothing was registered."""


class TamperedUpdate(UpdateRefused):
    """The update was changed or cut short after the device signed it, or it is no update."""


class ForeignUpdate(UpdateRefused):
    """The update is signed with a key that Perennial did not export for this model, or is about another one."""


class StaleUpdate(UpdateRefused):
    """The update is too old, or its base is no longer the champion."""


class ReplayedUpdate(UpdateRefused):
    """This update, or a later one of the same device, was imported before."""


class UpdateBeyondLimits(UpdateRefused):
    """The update changes the model by nothing, or by more than the model's file allows."""


# registry


class RegistryError(PerennialError):
    """The registry cannot be reached, or does not have this version."""


class NoChampion(RegistryError):
    """The model has no champion yet."""


class VersionGone(RegistryError):
    """The registry does not have this version, or has a different one under this number."""


class ForeignModelError(PerennialError):
    """A model that was trained elsewhere cannot be taken in or does not answer; the message names what does not fit."""


class ModelRaised(ForeignModelError):
    """A model that was trained elsewhere, in its own process, raised an exception for the rows that it was given."""


class ModelFileError(PerennialError):
    """A model's files are missing, altered, or contain types that are not trusted."""


class OnlineStateError(PerennialError):
    """A state of a champion's online corrector is missing, altered, or of another model. The frozen champion serves."""


class NoModelFile(ModelFileError):
    """A version of somebody else's service, whose predictions are only read: it can be neither loaded nor promoted."""


# rollout


class NothingToPromote(PerennialError):
    """No challenger has been validated yet."""


class PromotionRefused(PerennialError):
    """The evidence, a reviewer or the state of the registry does not allow this move. Nothing was moved."""


class MoveFailed(PerennialError):
    """The aliases were not moved, or were moved back because the new champion did not answer."""


class TrafficError(PerennialError):
    """The traffic split cannot be read or was not taken over by what serves. The champion keeps all traffic."""


class AdoptionRefused(PerennialError):
    """A model from elsewhere does not become the champion. Nothing was moved."""


class RolloutRefused(PerennialError):
    """The rollout is not in a state that allows this action. Nothing was changed."""


class AccessRefused(PerennialError):
    """The model's file does not allow this principal to do this. Nothing was done."""


class BackfillRefused(PerennialError):
    """The range holds no window, or more windows than allowed. Nothing was done."""


class ReplayRefused(PerennialError):
    """The workspace already holds data from after the start of the requested replay."""


# storage


class WorkspaceError(PerennialError, RuntimeError):
    """The workspace cannot be read or written."""


class LedgerError(PerennialError):
    """The hash chain cannot be read or extended."""


class LeaseHeld(PerennialError):
    """Another run of this model holds the lease and keeps renewing it. Nothing was written."""


class FencedOut(PerennialError):
    """This process did not renew its lease in time and another one took over. It has written nothing since."""


class AwsProfileError(PerennialError):
    """The credentials of an AWS profile are not available."""


# gateway


class RequestRefused(PerennialError):
    """A request to the gateway that cannot be answered; `status` is its HTTP status."""

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status


class GatewayError(PerennialError):
    """The gateway cannot start: its address is taken, or its key cannot be read."""


# deployments


class DeploymentError(PerennialError, RuntimeError):
    """The definitions cannot be deployed, or Prefect rejected them."""


class PoolError(PerennialError, ValueError):
    """A setting names a place or a work pool that is not defined."""


class LogInError(PerennialError, ValueError):
    """The login file cannot be used."""
