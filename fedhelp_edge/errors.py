"""Every refusal of this kit: a tree of exceptions, each with a code, a cause and a remedy.

The code is stable and may be relied on by programs. The cause says what was met this time; the remedy says what a
person does next. Both are one line, lower case, without a full stop, and never hold a key, a tensor or a private path.
`docs/errors.md` is generated from this file: a class without a code is a chapter, its docstring the heading.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator, Sequence
from typing import ClassVar


class FedhelpError(Exception):
    """Anything that this kit refuses or cannot do."""

    code: ClassVar[str] = ""
    remedy: str = ""

    def __init_subclass__(cls, code: str = "", remedy: str = "") -> None:
        cls.code, cls.remedy = code, remedy

    def __init__(self, cause: str, *, remedy: str = "") -> None:
        super().__init__(cause)
        self.cause = cause
        self.remedy = remedy or type(self).remedy

    @property
    def lines(self) -> list[str]:
        """The cause as it is printed: one line, but for a list of mistakes."""
        return [self.cause]


def tree(root: type[FedhelpError] = FedhelpError) -> Iterator[type[FedhelpError]]:
    """Every class below `root`, chapters before their codes, in the order in which they are written here."""
    for child in root.__subclasses__():
        yield child
        yield from tree(child)


def remedy_of(code: str) -> str:
    """What is done about an error of which only the code was told: in a list, in a receipt."""
    return next((kind.remedy for kind in tree() if kind.code == code), "update this program: it does not know this code")


# ---------------------------------------------------------------------------------------------------------------------
class MachineError(FedhelpError):
    """This machine, its disk and the command line"""


class UsageError(MachineError, code="E_USAGE", remedy="add --help to the command to see what it takes"):
    """The command line itself is wrong: an unknown command or option, a missing argument. Exit code 2."""


class StoppedByHandError(MachineError, code="E_INTERRUPTED", remedy="run the same command again; it goes on where it stopped"):
    """Somebody pressed Ctrl-C."""


class FileMissingError(MachineError, code="E_FILE_MISSING", remedy="check the name, and that the stick or disk is plugged in"):
    """A file or folder that was named is not there."""


class FileKindError(MachineError, code="E_FILE_KIND", remedy="name an ordinary file, not a folder, a link or a device; on a carrier, move what is named away"):
    """What was named is there, but it is not an ordinary file."""


class CarrierHomeError(MachineError, code="E_CARRIER_HOME", remedy="name a carrier folder of its own, neither inside --home nor around it"):
    """The carrier is the home of a site or hub, lies inside it, or holds it."""


class TargetExistsError(MachineError, code="E_FILE_EXISTS", remedy="choose another name, or move the old file away first"):
    """Files are written once: what would be written is there already."""


class NoPermissionError(MachineError, code="E_PERMISSION", remedy="ask for the right to read and write there, or name another folder"):
    """The system does not let this user read or write there (or the disk is mounted read-only)."""


class NoSpaceError(MachineError, code="E_STORAGE", remedy="free some space or plug the disk in again, then run the same command again"):
    """The disk is full, broken or gone. What was there before is untouched and nothing is half-written."""


class BusyError(MachineError, code="E_BUSY", remedy="wait until the other command has ended, then run this one again"):
    """Another command is at work in the same folder."""


class MissingPackageError(MachineError, code="E_EXTRA", remedy="install the part that is missing: for DICOM pip install 'fedhelp-edge[medical]', for compressed DICOM also pip install 'pylibjpeg[all]'"):
    """An optional part of the kit is not installed."""


class BadNameError(MachineError, code="E_NAME", remedy="choose a name of at most 200 letters, digits and signs, on one line"):
    """A name that other people will read holds a line end, a control character, one that cannot be seen, or is too long."""


class InternalError(MachineError, code="E_INTERNAL", remedy="run again with --debug and send the text to the makers"):
    """A mistake in this program. Nothing was lost, but please report it."""


# ---------------------------------------------------------------------------------------------------------------------
class PlanError(FedhelpError):
    """The plan"""


class BadPlanError(PlanError, code="E_PLAN", remedy="correct the lines that are named, then run 'fedhelp-edge plan check FILE'"):
    """The plan has mistakes. All of them are listed at once, with their lines."""

    def __init__(self, mistakes: Sequence[object]) -> None:
        count = "1 mistake" if len(mistakes) == 1 else f"{len(mistakes)} mistakes"
        self._lines = [f"the plan has {count}", *map(str, mistakes)]
        super().__init__("\n  ".join(self._lines))
        self.mistakes = mistakes

    @property
    def lines(self) -> list[str]:
        return self._lines


# ---------------------------------------------------------------------------------------------------------------------
class DataError(FedhelpError):
    """Images and labels"""


class NoImagesError(DataError, code="E_NO_IMAGES", remedy="name a folder with one folder of images for each class, a table (CSV) or an NPZ; 'fedhelp-edge check IMAGES' says what is wrong with each file"):
    """There is nothing to learn from: no images, or none that can be used."""


class OneClassError(DataError, code="E_ONE_CLASS", remedy="add images of another class, or correct the labels; a net learns to tell at least two apart"):
    """All usable images are of one class."""


class BadTableError(DataError, code="E_TABLE", remedy="give it a first line of names: path, label and, if known, patient, split and centre; or say what they are called: check --columns 'image=Datei,label=Befund,patient=Fall'"):
    """The table of images cannot be read, or one of its rows cannot."""


class BadNpzError(DataError, code="E_NPZ", remedy="lay it out as MedMNIST does: train_images, train_labels and so on, or images and labels, in whole numbers of 8 or 16 bit; patients, if known, in train_groups or groups"):
    """The NPZ does not hold images and labels as it should."""


class LabelUnknownError(DataError, code="E_LABEL", remedy="rename the folder or the label to a class of the plan, or add --map 'NAME=CLASS'"):
    """A label, or the name of a folder, is no class of the plan. Its images are not used."""


class LabelConflictError(DataError, code="E_CONFLICT", remedy="find out which label is right and remove the other file; until then none of them is used"):
    """The same image stands under two labels."""


class DuplicateImageError(DataError, code="E_DUPLICATE", remedy="nothing needs doing, for it counts once; remove one of the two if you like"):
    """The same image is there twice, under the same label."""


class NearDuplicateError(DataError, code="E_NEAR_DUPLICATE", remedy="nothing needs doing, for both stay in one part; remove one, or give both the same group in a table, and it is not told again"):
    """Two images are almost the same."""


class LeakedImageError(DataError, code="E_LEAK", remedy="remove one of the two; or, before the first training, put both into the same part, by the same split or group in a table"):
    """An image, one that is almost the same, or the same patient is in two of the parts train, val and test."""


class GroupElsewhereError(DataError, code="E_GROUP", remedy="nothing needs doing; the image is left out so that the figures stay honest"):
    """A new image shows a patient or lesion, or nearly a picture, of the validation or test images. It is not used."""


class ImageBrokenError(DataError, code="E_IMAGE", remedy="copy the file again from where it came, or remove it"):
    """The file cannot be read as an image. It is not used."""


class ImageKindError(DataError, code="E_IMAGE_KIND", remedy="export it as one ordinary image (PNG, JPEG, or DICOM with one frame)"):
    """The file is of a kind that cannot be learned from here. It is not used."""


class PhonePictureError(ImageKindError, code="E_HEIC", remedy="install what reads it, pip install 'fedhelp-edge[phone]', or export it as JPEG; an iPhone takes JPEG from now on with Settings, Camera, Formats, Most Compatible"):
    """A phone's picture in a form (HEIC, AVIF) that is not read here, whatever its file is called. It is not used."""


class ArchiveError(ImageKindError, code="E_ARCHIVE", remedy="unpack it beside the other images, then check again"):
    """An archive (ZIP and the like) lies among the images. What is in it is not used."""


class ImageSizeError(DataError, code="E_IMAGE_SIZE", remedy="export it at an ordinary size, or cut out the part that matters"):
    """The image has more pixels than any single picture should. It is not opened."""


class ImageCostError(DataError, code="E_IMAGE_COST", remedy="export it again as one ordinary PNG or JPEG, or remove it"):
    """Opening the file takes more memory or work than any ordinary image: thousands of parts, frames or passes. It is not used."""


class ImageDoubtError(DataError, code="E_IMAGE_DOUBT", remedy="look whether it shows what is meant; if not, export it again"):
    """The image is used, but its file holds more than one picture, or raw data that are not meant to be looked at."""


class ImageTinyError(DataError, code="E_IMAGE_TINY", remedy="export it at its full size, or remove it; a preview is not enough to learn from"):
    """The image has fewer than 8 pixels on a side, or fewer than half as many as the plan works with. It is used."""


class ImageBlankError(DataError, code="E_IMAGE_BLANK", remedy="look at it, and remove it if it shows nothing"):
    """The image is black, white or of one colour throughout. It is used."""


class ClassMissingError(DataError, code="E_CLASS_MISSING", remedy="nothing needs doing if this site has no such images; else look for a folder with another name"):
    """A class of the plan has no image here."""


class ClassTinyError(DataError, code="E_CLASS_TINY", remedy="add more if there are any; figures for so few images say little"):
    """A class has very few images."""


class ClassUnvalidatedError(DataError, code="E_CLASS_VALIDATION", remedy="add images of this class, of other patients, before the first training, or leave the class out at this site; once the split is kept, the column 'split' of a table puts images into val"):
    """A class has images to learn from and no validation image: nobody would know how well it is told."""


class KeptSplitError(DataError, code="E_SPLIT", remedy="bring split.json back from a backup; without it images that were learned from may be measured by"):
    """The file that keeps which image is in which part is damaged."""


# ---------------------------------------------------------------------------------------------------------------------
class TrainingError(FedhelpError):
    """Training"""


class NoImagesNamedError(TrainingError, code="E_IMAGES", remedy="name the folder, table or NPZ of images once; it is remembered"):
    """It is not known which images to train on."""


class NotTrainedError(TrainingError, code="E_NOT_TRAINED", remedy="run 'fedhelp-edge train' or 'fedhelp-edge distill' first"):
    """Nothing has been trained here yet."""


class BadPackError(TrainingError, code="E_PACK", remedy="build the pack again ('fedhelp-edge knowledge build --help' says how), or ask the coordinator for it again"):
    """The knowledge, or what it is made from, is not as it should be."""


class DivergedError(TrainingError, code="E_DIVERGED", remedy="look at the images that are named, or lower the learning rate in the plan (of a federation only the coordinator makes one); the last good state is kept"):
    """The loss became no number. Training stopped at once."""


# ---------------------------------------------------------------------------------------------------------------------
class ParcelError(FedhelpError):
    """A parcel is not whole"""


_AGAIN = "ask for the file again, and copy it as it is"


class BadMagicError(ParcelError, code="E_MAGIC", remedy="this is another kind of file, or it was altered on its way (text-mode copying changes line ends); " + _AGAIN):
    """The file does not begin as a parcel does."""


class TruncatedError(ParcelError, code="E_TRUNCATED", remedy="the copy is not complete; copy it again, and take the stick out only when the copy has ended"):
    """The file ends too early."""


class TrailingError(ParcelError, code="E_TRAILING", remedy=_AGAIN):
    """The file goes on after its end."""


class StatementSizeError(ParcelError, code="E_STATEMENT_SIZE", remedy=_AGAIN):
    """The statement, or all that stands before the payload, is longer than the format allows."""


class StatementCanonError(ParcelError, code="E_STATEMENT_CANON", remedy=_AGAIN):
    """The statement is not written in its one canonical form (spaces, order of keys, escapes, a key twice)."""


class StatementTypeError(ParcelError, code="E_STATEMENT_TYPE", remedy=_AGAIN):
    """The statement holds a value that the format does not know: a fraction, null, a negative number, a letter outside ASCII."""


class StatementSchemaError(ParcelError, code="E_STATEMENT_SCHEMA", remedy="the file may come from a newer version of this kit; update it, or ask for the file again"):
    """The statement lacks a key, has one too many, or one of them holds the wrong thing."""


class StatementDepthError(ParcelError, code="E_STATEMENT_DEPTH", remedy=_AGAIN):
    """The statement is nested too deeply."""


class SigCountError(ParcelError, code="E_SIG_COUNT", remedy=_AGAIN):
    """A parcel carries one to eight signatures."""


class SigFormatError(ParcelError, code="E_SIG_FORMAT", remedy=_AGAIN):
    """A signature is not written as SSHSIG rules, in its one form."""


class SigNamespaceError(ParcelError, code="E_SIG_NAMESPACE", remedy="this signature was made for another purpose; do not trust the file, ask for it again"):
    """The signature holds for another purpose than this one."""


class SigAlgError(ParcelError, code="E_SIG_ALG", remedy="ask for the file again, signed with an Ed25519 key and SHA-512"):
    """The signature uses a kind of key or hash that is not accepted here."""


class SigBadError(ParcelError, code="E_SIG_BAD", remedy="the file was altered after it was signed, or never signed by that key; do not trust it, ask for it again"):
    """The signature does not hold."""


class PayloadSizeError(ParcelError, code="E_PAYLOAD_SIZE", remedy=_AGAIN):
    """The payload has another size than the statement says, or one that cannot be or is not allowed."""


class PayloadHashError(ParcelError, code="E_PAYLOAD_HASH", remedy=_AGAIN):
    """The payload is not the one that was signed."""


class BadBodyError(ParcelError, code="E_BODY", remedy="the file may come from a newer version of this kit; update it, or ask for the file again"):
    """What the parcel holds is not what its kind should hold."""


class InnerContextError(ParcelError, code="E_INNER_CONTEXT", remedy="do not use the file, for somebody may have signed another's work as their own: refuse it with 'fedhelp-coordinator review SITE --refuse', and ask the site for its own"):
    """What was encrypted names another sender, round or federation than the signed outside."""


# ---------------------------------------------------------------------------------------------------------------------
class AgeError(FedhelpError):
    """Decryption"""


class ArmorError(AgeError, code="E_AGE_ARMOR", remedy="copy the whole text, from its BEGIN line to its END line"):
    """The text form of an encrypted file is damaged."""


class HeaderError(AgeError, code="E_AGE_HEADER", remedy=_AGAIN):
    """The encrypted part does not begin as an age file does."""


class MacError(AgeError, code="E_AGE_MAC", remedy=_AGAIN):
    """The beginning of the encrypted part was altered."""


class PayloadError(AgeError, code="E_AGE_PAYLOAD", remedy=_AGAIN):
    """The encrypted part was altered, cut short or lengthened. Nothing of it was released."""


class NoMatchError(AgeError, code="E_NO_MATCH", remedy="it was encrypted for somebody else; ask for one that is meant for this site"):
    """No key here opens it."""


class RecipientTypeError(AgeError, code="E_AGE_RECIPIENT_TYPE", remedy="make the key that reads with this kit ('fedhelp-edge keys new'); it begins with age1, and no other kind is accepted"):
    """It is encrypted in a way that this kit does not accept here."""


class RoundKeyGoneError(AgeError, code="E_ROUND_KEY_GONE", remedy="the round is over and its key destroyed; take part in the present round"):
    """The key that opens it belonged to a round that is over, and was destroyed."""


# ---------------------------------------------------------------------------------------------------------------------
class KeyStoreError(FedhelpError):
    """The keys of this site"""


class NoKeysError(KeyStoreError, code="E_KEYS_MISSING", remedy="make them with 'fedhelp-edge keys new', or bring them back with 'fedhelp-edge keys restore FILE'"):
    """There are no keys here yet."""


class KeysExistError(KeyStoreError, code="E_KEYS_EXIST", remedy="keep the keys that are there; to begin anew choose another folder with --home"):
    """There are keys here already, and they are never overwritten."""


class KeysModeError(KeyStoreError, code="E_KEYS_MODE", remedy="let nobody else read it: chmod 600 on the file, chmod 700 on its folder, and no links"):
    """The key file can be read by other users, or is a link."""


class KeysCorruptError(KeyStoreError, code="E_KEYS_CORRUPT", remedy="bring the keys back from the backup with 'fedhelp-edge keys restore FILE', or ask the coordinator for a new invite"):
    """The key file is damaged."""


class WrongPassphraseError(KeyStoreError, code="E_PASSPHRASE", remedy="type it again (five words with hyphens, if it was made here); without it only the backup or a new invite helps"):
    """The passphrase does not open the keys."""


class PassphraseNeededError(KeyStoreError, code="E_PASSPHRASE_NEEDED", remedy="type it at the prompt, or name a file that holds it with --passphrase-file"):
    """The keys are locked and nobody is there to ask for the passphrase."""


class WeakPassphraseError(KeyStoreError, code="E_PASSPHRASE_WEAK", remedy="take five words that do not belong together, or twelve and more letters that nobody would guess"):
    """The new passphrase is too short, obvious or repeated. Whoever copies the key file can try millions."""


# ---------------------------------------------------------------------------------------------------------------------
class TrustError(FedhelpError):
    """Who may send what, and when"""


class SignerUnknownError(TrustError, code="E_SIGNER_UNKNOWN", remedy="ask the coordinator whether this site is in the roster"):
    """The key that signed belongs to nobody in the roster."""


class SignerMismatchError(TrustError, code="E_SIGNER_MISMATCH", remedy="do not use the file, for it speaks in another's name; ask the one who is named for another"):
    """The key that signed is not the key of the sender that is named."""


class SignerRevokedError(TrustError, code="E_SIGNER_REVOKED", remedy="ask the coordinator why; a site that lost its PC needs a new invite"):
    """The sender's key was revoked."""


class SignerWindowError(TrustError, code="E_SIGNER_WINDOW", remedy="wait for the round from which this site takes part"):
    """The sender does not take part in this round yet."""


class SignerRoleError(TrustError, code="E_ROLE", remedy="do not use the file, and tell the coordinator; what is truly the coordinator's comes with the next download"):
    """The key is known, but its owner may not sign this kind of parcel."""


class RollbackError(TrustError, code="E_ROLLBACK", remedy="this is old news; run 'fedhelp-edge download' again, or ask for a newer stick"):
    """Older orders than those that are known here already."""


class EquivocationError(TrustError, code="E_EQUIVOCATION", remedy="keep both files and phone the coordinator: two different orders carry the same number; if the hub was copied back by hand, 'fedhelp-coordinator backup FILE', then 'fedhelp-coordinator restore FILE --root-key DIR' put it right"):
    """Two different parcels claim to be the same version."""


class ExpiredError(TrustError, code="E_EXPIRED", remedy="run 'fedhelp-edge download'; if that brings nothing newer, ask the coordinator to open a round, which renews the roster"):
    """The orders are too old to act on."""


class RootChainError(TrustError, code="E_ROOT_CHAIN", remedy="run 'fedhelp-edge download' again so that every version of the charter arrives, one after the other"):
    """The new charter does not follow from the one that is known here."""


class ThresholdError(TrustError, code="E_THRESHOLD", remedy="let as many different root keys sign as the charter asks for"):
    """Too few of the root keys have signed."""


class PinnedKeyError(TrustError, code="E_PIN", remedy="stop, and phone the coordinator on a number you know: compare the words of both"):
    """This is another federation than the one that this site joined."""


class TaskRosterError(TrustError, code="E_TASK_ROSTER", remedy="run 'fedhelp-edge download' again so that roster and task arrive together"):
    """The task rests on another roster than the one that is here."""


class RotateProofError(TrustError, code="E_ROTATE_PROOF", remedy="sign the new keys with the old key as well as with the new one"):
    """New keys must be signed by the old key and by the new one."""


class KeyReusedError(TrustError, code="E_KEY_REUSED", remedy="make new keys for each site and each federation: 'fedhelp-edge keys new' in a new folder"):
    """This key is somebody's already."""


class InviteCodeError(TrustError, code="E_INVITE_CODE", remedy="compare the code letter by letter with the one that was given"):
    """The invite code is mistyped."""


class InviteUnknownError(TrustError, code="E_INVITE_UNKNOWN", remedy="ask the coordinator for a new invite"):
    """There is no such invite."""


class InviteUsedError(TrustError, code="E_INVITE_USED", remedy="each invite works once; ask the coordinator for a new one"):
    """The invite was used already."""


class InviteExpiredError(TrustError, code="E_INVITE_EXPIRED", remedy="ask the coordinator for a new invite"):
    """The invite is too old."""


class InviteProofError(TrustError, code="E_INVITE_PROOF", remedy="join again with the code that the coordinator gave to this site"):
    """The request does not prove that its sender knows the invite code."""


class FederationError(TrustError, code="E_FEDERATION", remedy="take the file that belongs to this federation"):
    """The parcel belongs to another federation."""


class ParcelKindError(TrustError, code="E_KIND", remedy="take the right file: 'fedhelp-edge inspect FILE' says what each is"):
    """The parcel is of another kind than what is wanted here."""


class RoundUnknownError(TrustError, code="E_ROUND_UNKNOWN", remedy="run 'fedhelp-edge download' first"):
    """No such round has been opened."""


class RoundClosedError(TrustError, code="E_ROUND_CLOSED", remedy="run 'fedhelp-edge download', and take part in the present round"):
    """The round is over."""


class WrongTaskError(TrustError, code="E_TASK", remedy="run 'fedhelp-edge download', then train or distill again"):
    """The share was made under another task than the one of this round."""


class BaseModelError(TrustError, code="E_BASE_MODEL", remedy="run 'fedhelp-edge download', then train or distill again"):
    """The share starts from another model than the one of this round."""


class RecipientsError(TrustError, code="E_RECIPIENTS", remedy="run 'fedhelp-edge download', then upload again"):
    """The parcel is encrypted for others than the task names."""


class ReplayError(TrustError, code="E_REPLAY", remedy="nothing to do if it was sent twice by mistake; if this site came back from a backup, leave and join again with a new invite"):
    """This was seen before, or is older than what was seen from the same sender."""


class LogRollbackError(TrustError, code="E_LOG_ROLLBACK", remedy="phone the coordinator: its log is shorter than it was; if the hub was copied back by hand, 'fedhelp-coordinator backup FILE', then 'fedhelp-coordinator restore FILE --root-key DIR' put it right"):
    """The coordinator's log is shorter than one that it showed before."""


class SplitViewError(TrustError, code="E_SPLIT_VIEW", remedy="keep both files and phone the coordinator: it tells different sites different things; if the hub was copied back by hand, 'fedhelp-coordinator backup FILE', then 'fedhelp-coordinator restore FILE --root-key DIR' put it right"):
    """The coordinator's log differs from one of the same length that it showed before."""


# ---------------------------------------------------------------------------------------------------------------------
class UpdateError(FedhelpError):
    """The numbers of a share"""


_TRAIN_AGAIN = "update the kit, then train or distill again"
_MAKE_AGAIN = _TRAIN_AGAIN + "; weights that you named yourself: take the file as it was made, for the net that is wanted"


class NotSafetensorsError(UpdateError, code="E_SAFETENSORS", remedy="weights travel as safetensors only, and nothing else is ever opened; " + _MAKE_AGAIN):
    """The weights are not in the safetensors format."""


class TensorHeaderError(UpdateError, code="E_ST_HEADER", remedy=_MAKE_AGAIN):
    """The header of the weights has an impossible or forbidden length."""


class TensorLayoutError(UpdateError, code="E_ST_LAYOUT", remedy=_MAKE_AGAIN):
    """The tensors overlap, leave gaps, stand in another order than the header's, or do not fill the file."""


class TensorMetadataError(UpdateError, code="E_ST_META", remedy=_MAKE_AGAIN):
    """The weights carry notes that are not allowed."""


class SchemaNamesError(UpdateError, code="E_SCHEMA_NAMES", remedy=_MAKE_AGAIN):
    """A tensor is missing, has another name, or is one too many."""


class SchemaShapeError(UpdateError, code="E_SCHEMA_SHAPE", remedy=_MAKE_AGAIN):
    """A tensor has another shape than the task says."""


class SchemaDtypeError(UpdateError, code="E_SCHEMA_DTYPE", remedy=_MAKE_AGAIN):
    """A tensor has another number format than the task says."""


class NonFiniteError(UpdateError, code="E_NONFINITE", remedy="training went wrong: look for what is odd with 'fedhelp-edge check IMAGES', " + _TRAIN_AGAIN):
    """A tensor holds numbers that are no numbers."""


class NormStatisticsError(UpdateError, code="E_BN_STATS", remedy=_MAKE_AGAIN):
    """The statistics of a normalisation layer are impossible."""


class NumberRangeError(UpdateError, code="E_RANGE", remedy="training went wrong: look for what is odd with 'fedhelp-edge check IMAGES', " + _TRAIN_AGAIN):
    """A tensor holds numbers far outside what training gives."""


# ---------------------------------------------------------------------------------------------------------------------
class SiteError(FedhelpError):
    """Taking part"""


class NotJoinedError(SiteError, code="E_NOT_JOINED", remedy="join with 'fedhelp-edge join INVITE', or try a plan out without joining by --plan"):
    """This computer has joined no federation."""


class JoinedAlreadyError(SiteError, code="E_JOINED", remedy="use another --home for another federation, or 'fedhelp-edge leave' first"):
    """This folder belongs to a site that has joined a federation."""


class BadInviteError(SiteError, code="E_INVITE_FILE", remedy="ask the coordinator for the invite file again, or type the code with --url or --via"):
    """The invite file is damaged, or is none."""


class NotYetError(SiteError, code="E_NOT_YET", remedy="fedhelp-edge download"):
    """Something must come from the coordinator first: admission, an order, or the model that it names."""


class TierError(SiteError, code="E_TIER", remedy="clinics run 'fedhelp-edge train', hospitals 'fedhelp-edge distill'"):
    """The command is for sites of the other tier."""


class NoCarrierError(SiteError, code="E_CARRIER", remedy="name a folder or stick with --via DIR"):
    """Nobody said how parcels travel to the coordinator."""


class OfflineError(SiteError, code="E_OFFLINE", remedy="nothing is lost: run the same command again later, or carry it on a stick with --via DIR"):
    """The coordinator cannot be reached over the network now."""


class NotAFrontError(OfflineError, code="E_NO_FRONT", remedy="check the address (--url); if the network asks you to sign in, do that first; nothing is lost, and a stick with --via DIR works too"):
    """What answers at the address does not answer as a coordinator's front does. Nothing of the answer is used."""

    def __init__(self, why: str) -> None:
        super().__init__(f"what answers at this address is no front of a coordinator: {why}")


class RefusedThereError(SiteError, code="E_REFUSED", remedy="do what the coordinator's answer says, for its cause has a code too"):
    """The coordinator's front refused what was sent or asked for; the cause has its own code."""

    def __init__(self, there: str, cause: str, remedy: str) -> None:
        super().__init__(f"{there}: {cause}", remedy=remedy)
        self.there = there


# ---------------------------------------------------------------------------------------------------------------------
class BundleError(FedhelpError):
    """The exported model, and diagnosing with it"""


class NoSignatureError(BundleError, code="E_BUNDLE_UNSIGNED", remedy="copy the file that ends in .onnx.sig beside it; without one, do not use the model"):
    """No signature lies beside the model. It is not opened."""


class BadBundleError(BundleError, code="E_BUNDLE", remedy="export the model again with this version of the kit, or ask for the file again"):
    """The file is no model as this kit exports it, or what it says of itself does not fit."""


class DisagreesError(BundleError, code="E_PARITY", remedy="do not diagnose with it here; update onnxruntime, or export the model again on this machine"):
    """The model gives other answers here than it should."""


class TooFewError(BundleError, code="E_CALIBRATION", remedy="add new images that a table (labels.csv) puts into val by its column split; or begin in another --home, with a higher [data] val in the plan"):
    """Too few images were kept to choose by: it cannot be said when the model does not know."""


class OtherClassesError(BundleError, code="E_CLASSES", remedy="compare models of one federation, on images labelled with its classes"):
    """Two models, or a model and the images, know different classes."""


class OtherAnswersError(BundleError, code="E_ANSWERS", remedy="name another folder with --out"):
    """The folder holds the answers of another model, or they are damaged. They are never mixed."""


# ---------------------------------------------------------------------------------------------------------------------
class HubError(FedhelpError):
    """The coordinator"""


class NoHubError(HubError, code="E_HUB", remedy="make one with 'fedhelp-coordinator init --plan plan.toml', or say with --home where it lives"):
    """There is no hub in this folder."""


class KitIncompleteError(HubError, code="E_KIT", remedy="check the line to the internet; if a package has no file for that system, name another Python with --python"):
    """A package that a kit needs could not be fetched."""


class KitDamagedError(HubError, code="E_KIT_DAMAGED", remedy="run nothing of it; copy the kit again, and if it stays so phone whoever made it"):
    """A file of a kit is missing, or is not what the kit's list says."""


class HubDamagedError(HubError, code="E_HUB_DAMAGED", remedy="do not write to it any more: move it away, and restore the newest backup with 'fedhelp-coordinator restore FILE --root-key DIR'"):
    """The hub's database or one of its files is damaged."""


class HubNewerError(HubError, code="E_HUB_VERSION", remedy="update this program; an older one must not touch a newer hub"):
    """The hub was written by a newer version of this program."""


class BadBackupError(HubError, code="E_BACKUP", remedy="take another backup; a damaged one cannot be restored in part"):
    """This is no backup of a hub, or a damaged one."""


class NotNowError(HubError, code="E_STATE", remedy="see with 'fedhelp-coordinator status' where the federation stands"):
    """The federation is in another state than this step needs."""


class FederationFullError(HubError, code="E_FULL", remedy="cancel invites that nobody uses, see 'fedhelp-coordinator invites'; for more sites begin a second federation"):
    """The roster has no room for more: it holds at most 4 MiB, which is some 13,000 sites. Nothing was changed."""


class ClockJumpError(HubError, code="E_CLOCK", remedy="set this machine's clock; if it is right, 'fedhelp-coordinator clock --accept' writes that into the log"):
    """The clock is far from the last line of the hub's log. Nothing is written, for every deadline would move."""


class QuorumError(HubError, code="E_QUORUM", remedy="wait or remind the sites that are missing; after the deadline the quorum is enough, and --now closes before it"):
    """Too few shares have come to merge them."""


class SiteUnknownError(HubError, code="E_SITE", remedy="see the sites with 'fedhelp-coordinator roster', and those that wait with 'fedhelp-coordinator requests'"):
    """No site or request has this name."""


class AmbiguousError(HubError, code="E_AMBIGUOUS", remedy="name it by its id or hash, as it is listed"):
    """The name means more than one site, request or update, or another one than was shown. Nothing was decided."""


class KnowledgeMissingError(HubError, code="E_KNOWLEDGE", remedy="fedhelp-edge download"):
    """The task names knowledge that is not here."""


class DuplicateRoundError(HubError, code="E_DUPLICATE_ROUND", remedy="nothing to do: the first share of a round counts"):
    """Another share of this site for this round was accepted before."""


class ClaimedExamplesError(HubError, code="E_SAMPLES", remedy=_TRAIN_AGAIN):
    """The share says that it was made from an impossible number of images."""


class LazyUpdateError(HubError, code="E_LAZY", remedy="ask the site whether it trained at all; 'fedhelp-coordinator review SITE --release' lets the share in all the same"):
    """The share is the model that the site was given, unchanged."""


class CopiedUpdateError(HubError, code="E_COPY", remedy="phone the sites that sent it, for two never train the same weights: 'fedhelp-coordinator review SITE --release' for the one that did, --refuse for the other"):
    """The share holds the same weights as another site's."""


class OpposedUpdateError(HubError, code="E_OPPOSED", remedy="look at the site's data and labels before 'fedhelp-coordinator review SITE --release'"):
    """The share pulls against all the others."""


class DistantUpdateError(HubError, code="E_TOO_FAR", remedy="look at the site's data and training before 'fedhelp-coordinator review SITE --release'"):
    """The share pulls many times further than the others."""


class InflatedUpdateError(HubError, code="E_CLAIM", remedy="phone the site and ask how many images it trains with; if that is true, 'fedhelp-coordinator review SITE --release' lets it in, from then on too"):
    """A site claims far more training images than the others. The claim decides how much its share weighs."""


class ResourceError(HubError, code="E_RESOURCE", remedy="refuse it with 'fedhelp-coordinator review SITE --refuse', and ask the site to update its kit and to train again; the file may be an attack"):
    """Opening the share took more memory or time than a share can need."""


class LogBrokenError(HubError, code="E_LOG", remedy="the log was changed by other hands: keep what is there as it is; the coordinator brings a backup back into another --home with 'fedhelp-coordinator restore FILE --root-key DIR'"):
    """The chain of the audit log does not hold."""


class AuditGapError(HubError, code="E_AUDIT", remedy="ask the coordinator for the whole round: 'fedhelp-coordinator audit export ROUND DIR'"):
    """What was handed out for audit is not all there, or does not fit together."""


class QuotaError(HubError, code="E_QUOTA", remedy="finish or abandon the uploads that are open; where none is, wait for the next round"):
    """More uploads or bytes than one site may have at a time."""


# ---------------------------------------------------------------------------------------------------------------------
class NetworkError(FedhelpError):
    """Between a site and the hub"""


class BadRequestError(NetworkError, code="E_REQUEST", remedy="update the kit on this side; docs/spec/http.md says how a request looks"):
    """The request is not one that the hub understands."""


class UnsignedError(NetworkError, code="E_UNSIGNED", remedy="sign the request with the site's key and the nonce that came with this answer"):
    """The request asks for what only members may see, and does not say who asks."""


class NonceError(NetworkError, code="E_NONCE", remedy="sign the request again with the nonce that came with this answer"):
    """The request was signed with a nonce that was used before, is too old, or is not the hub's."""


class NotHereError(NetworkError, code="E_NOT_HERE", remedy="run 'fedhelp-edge download' again; if this was an upload, begin it anew"):
    """The hub has nothing of this name, or nothing that this site may see."""


class HttpMethodError(NetworkError, code="E_METHOD", remedy="docs/spec/http.md says what can be done at this address"):
    """This cannot be done at this address of the hub."""


class UploadOffsetError(NetworkError, code="E_UPLOAD_OFFSET", remedy="ask where the upload stands with HEAD, and go on from there"):
    """The upload stands elsewhere, or a newer request goes on with it."""


class UploadProtocolError(NetworkError, code="E_UPLOAD_PROTOCOL", remedy="send Tus-Resumable: 1.0.0"):
    """The upload does not speak version 1.0.0 of the tus protocol."""


class MediaTypeError(NetworkError, code="E_MEDIA", remedy="send the bytes as they are, as application/offset+octet-stream, without Content-Encoding"):
    """The body is declared to be of a kind, or compressed in a way, that the hub does not take."""


class BytesRangeError(NetworkError, code="E_BYTES_RANGE", remedy="ask for the whole, or for bytes that are there"):
    """The bytes that were asked for lie outside the parcel."""


class RequestHeadersError(NetworkError, code="E_HEADERS", remedy="send fewer and shorter headers, and a shorter address"):
    """The address or the headers of the request are too long."""


class SlowError(NetworkError, code="E_SLOW", remedy="try again on a better line; an upload goes on where it stood"):
    """Too little of the request came in too long a time."""


class RateLimitError(NetworkError, code="E_RATE", remedy="wait as long as Retry-After says, then send it again"):
    """Too many requests from one sender."""

    def __init__(self, cause: str, seconds: float = 1.0) -> None:
        super().__init__(cause)
        self.seconds = seconds


class DashboardLinkError(NetworkError, code="E_DASHBOARD", remedy="open the link that 'fedhelp-coordinator serve' showed; it works once, and a new start shows a new one"):
    """The dashboard is for whoever started the front."""


class ListenError(NetworkError, code="E_LISTEN", remedy="choose another --port or --host, and check the files named with --tls-cert and --tls-key"):
    """The front cannot listen at this address, or not with this certificate."""


# ---------------------------------------------------------------------------------------------------------------------
def from_os(fault: OSError) -> FedhelpError:
    """What the system said, as one of ours. Only the last part of a path is shown."""
    name = str(fault.filename or "").replace("\\", "/").rstrip("/").rsplit("/", 1)[-1] or "a file"
    if fault.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return NoSpaceError(f"no space left while writing {name}")
    if fault.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return NoPermissionError(f"not allowed to read or write {name}")
    if fault.errno in (errno.ENOENT, errno.ENOTDIR):
        return FileMissingError(f"{name} is not there")
    if fault.errno in (errno.EISDIR, errno.ELOOP):
        return FileKindError(f"{name} is not an ordinary file")
    if fault.errno == errno.EEXIST:
        return TargetExistsError(f"{name} is there already")
    return NoSpaceError(f"cannot read or write {name}: {(fault.strerror or 'the disk does not answer').lower()}")
