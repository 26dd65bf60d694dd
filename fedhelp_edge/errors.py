"""Every refusal of this kit: one tree of exceptions, each with a code, a cause and a remedy.

    FedhelpError
    ├── MachineError       this machine, its disk and the command line
    ├── PlanError          the plan
    ├── DataError          images and labels
    │   └── ImageKindError     a file that cannot be used for training: PhonePictureError, VolumeKindError, ArchiveError
    ├── TrainingError      training
    ├── ParcelError        a parcel is not whole
    ├── AgeError           decryption
    ├── KeyStoreError      the keys of this site
    ├── TrustError         who may send what, and when
    ├── UpdateError        the weights of an update
    ├── SiteError          taking part
    │   └── OfflineError       no connection to the hub: NotAFrontError
    ├── BundleError        the exported model, and diagnosing with it
    ├── HubError           the coordinator
    └── NetworkError       between a site and the hub

A code is stable: programs may rely on it. The cause says what happened this time; the remedy says what a person does
next. Both are one line, lower case, without a full stop, and never hold a key, a tensor or a private path.
`docs/errors.md` is generated from this file: a class without a code is a chapter, its docstring the heading.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator, Sequence
from pathlib import Path
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
        """The cause as it is printed: one line, or a list of mistakes."""
        return [self.cause]

    @property
    def log_lines(self) -> list[str]:
        """The same for a log, which others may read."""
        return self.lines


def tree(root: type[FedhelpError] = FedhelpError) -> Iterator[type[FedhelpError]]:
    """Every class below `root`, chapters before their codes, in the order in which they are written here."""
    for child in root.__subclasses__():
        yield child
        yield from tree(child)


def remedy_of(code: str) -> str:
    """The remedy of an error of which only the code is known, as in a list or a receipt."""
    known = (kind.remedy for kind in tree() if kind.code == code)
    return next(known, "update this program: it does not know this code")


# ---------------------------------------------------------------------------------------------------------------------
class MachineError(FedhelpError):
    """This machine, its disk and the command line"""


class UsageError(MachineError, code="E_USAGE", remedy="add --help to the command to see what it takes"):
    """The command line is wrong: an unknown command or option, or a missing argument. Exit code 2."""


class StoppedByHandError(
    MachineError, code="E_INTERRUPTED", remedy="run the same command again; it continues where it stopped"
):
    """Somebody pressed Ctrl-C."""


class FileMissingError(
    MachineError, code="E_FILE_MISSING", remedy="check the name, and that the stick or disk is plugged in"
):
    """The named file or folder is not there."""


class FileKindError(
    MachineError,
    code="E_FILE_KIND",
    remedy="name an ordinary file, not a folder, a link or a device; on a carrier, move the named entry away",
):
    """The named path exists, but it is not an ordinary file."""


class CarrierHomeError(
    MachineError, code="E_CARRIER_HOME", remedy="name a separate carrier folder, neither inside --home nor around it"
):
    """The carrier folder is the home of a site or hub, lies inside it, or contains it."""


class TargetExistsError(
    MachineError, code="E_FILE_EXISTS", remedy="choose another name, or move the old file away first"
):
    """Files are written once, and this file already exists."""


class NoPermissionError(
    MachineError, code="E_PERMISSION", remedy="ask for the right to read and write there, or name another folder"
):
    """The system does not let this user read or write there, or the disk is mounted read-only."""


class NoSpaceError(
    MachineError, code="E_STORAGE", remedy="free some space or plug the disk in again, then run the same command again"
):
    """The disk is full, broken or gone. Existing files are untouched and nothing is half-written."""


class BusyError(MachineError, code="E_BUSY", remedy="wait until the other command has ended, then run this one again"):
    """Another command is running in the same folder."""


class MissingPackageError(
    MachineError,
    code="E_EXTRA",
    remedy=(
        "install the missing package: for DICOM pip install 'fedhelp-edge[medical]', for compressed DICOM also pip "
        "install 'pylibjpeg[all]'"
    ),
):
    """An optional package is not installed."""


class PluginError(MachineError, code="E_PLUGIN", remedy="repair or uninstall the package that adds the method"):
    """A method that another package adds cannot be loaded."""


class ClusterError(
    MachineError,
    code="E_CLUSTER",
    remedy=(
        "start Ray there, with the same packages on every machine; then run the same command again; it continues where"
        " it stopped"
    ),
):
    """Ray, which makes the visits of a lab run, does not start or answer, or its workers keep dying."""


class BadNameError(
    MachineError, code="E_NAME", remedy="choose a name of at most 200 letters, digits and signs, on one line"
):
    """A name that other people will read holds a line end, a control or invisible character, or is too long."""


class InternalError(
    MachineError, code="E_INTERNAL", remedy="run the command again with --debug and send the output to the makers"
):
    """This program has a bug. Nothing was lost, but please report it."""


# ---------------------------------------------------------------------------------------------------------------------
class PlanError(FedhelpError):
    """The plan"""


class BadPlanError(
    PlanError, code="E_PLAN", remedy="correct the listed lines, then run 'fedhelp-edge plan check FILE'"
):
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

    @property
    def log_lines(self) -> list[str]:
        """What kind of error it is: a cause may name an image."""
        title = (type(self).__doc__ or "").rstrip(".")
        return [title[:1].lower() + title[1:]]


class NoImagesError(
    DataError,
    code="E_NO_IMAGES",
    remedy=(
        "name a folder with one folder of images for each class, a table (CSV) or an NPZ; 'fedhelp-edge check IMAGES'"
        " names each unusable file"
    ),
):
    """There are no images to train on, or none that can be used."""


class OneClassError(
    DataError,
    code="E_ONE_CLASS",
    remedy="add images of another class, or correct the labels; a net learns to tell at least two classes apart",
):
    """All usable images are of one class."""


class BadTableError(
    DataError,
    code="E_TABLE",
    remedy=(
        "give it a first line of names: path, label and, if known, patient, split and centre; or map its column "
        "names: check --columns 'image=Datei,label=Befund,patient=Fall'"
    ),
):
    """The table of images, or one of its rows, cannot be read."""


class BadNpzError(
    DataError,
    code="E_NPZ",
    remedy=(
        "use MedMNIST's layout: train_images, train_labels and so on, or images and labels, as whole numbers of 8 or "
        "16 bit; patients in groups or train_groups"
    ),
):
    """The NPZ does not hold images and labels as it should."""


class LabelUnknownError(
    DataError,
    code="E_LABEL",
    remedy="rename the folder or the label to a class of the plan, or add --map 'NAME=CLASS' to 'check' or to 'lab'",
):
    """A label or a folder's name is not a class of the plan. Its images are not used."""


class LabelConflictError(
    DataError,
    code="E_CONFLICT",
    remedy="find out which label is right and remove the other file or line; until then neither is used",
):
    """The same image has two labels."""


class DuplicateImageError(
    DataError,
    code="E_DUPLICATE",
    remedy="nothing to do: the image counts once; remove one of the two if you like",
):
    """The same image is there twice, under the same label."""


class NearDuplicateError(
    DataError,
    code="E_NEAR_DUPLICATE",
    remedy=("nothing to do: both stay in one set; to end this note remove one, or give both the same group in a table"),
):
    """Two images are almost the same."""


class LeakedImageError(
    DataError,
    code="E_LEAK",
    remedy=(
        "remove one of the two; or, before the first training, put both into the same set, by the same split or "
        "group in a table"
    ),
):
    """An image, a near duplicate of it, or the same patient is in two of the sets train, val and test."""


class GroupElsewhereError(
    DataError, code="E_GROUP", remedy="nothing to do: the image is left out so that the figures stay honest"
):
    """A new image shows a patient, a lesion or nearly a picture of the validation or test images. It is not used."""


class ImageBrokenError(DataError, code="E_IMAGE", remedy="copy the file again from where it came, or remove it"):
    """The file cannot be read as an image. It is not used."""


class ImageKindError(
    DataError, code="E_IMAGE_KIND", remedy="export it as one ordinary image (PNG, JPEG, or DICOM with one frame)"
):
    """Images of this kind cannot be used for training here. The file is not used."""


class StudyError(
    DataError,
    code="E_STUDY",
    remedy=(
        "export the study again with its images; or say in a column 'modality' of the table which images the label is "
        "for"
    ),
):
    """A label does not say which image of a study it is for, or the study has no such image. It is not used."""


class StudyUnlabelledError(
    DataError, code="E_STUDY_UNLABELLED", remedy="add a line with its label to the table, if the study shall be used"
):
    """Studies beside a table have images and no line in it. They are not used."""


class BurnedInError(
    DataError,
    code="E_BURNED_IN",
    remedy="look at the image; if no text in it names the patient, add --burned-in, else leave it out",
):
    """Text in the pixels of an image may name the patient. No de-identified copy is made of it."""


class PhonePictureError(
    ImageKindError,
    code="E_HEIC",
    remedy=(
        "install the reader, pip install 'fedhelp-edge[phone]', or export it as JPEG; an iPhone takes JPEG from "
        "now on with Settings, Camera, Formats, Most Compatible"
    ),
):
    """The picture is in a phone's format (HEIC, AVIF), whatever its name, and cannot be read here. It is not used."""


class VolumeKindError(
    ImageKindError,
    code="E_VOLUME",
    remedy="export one complete series of one time point, with equal distances and without tilt, as DICOM or NIfTI",
):
    """The file or series is no single volume. Slices are missing, or it has several times, colours, tilted axes or no
    distances. It is not used."""


class ArchiveError(ImageKindError, code="E_ARCHIVE", remedy="unpack it beside the other images, then check again"):
    """An archive (ZIP and the like) lies among the images. Its content is not used."""


class ImageSizeError(
    DataError, code="E_IMAGE_SIZE", remedy="export it at an ordinary size, or cut out the part that matters"
):
    """The image has more pixels than any single picture should. It is not opened."""


class ImageCostError(
    DataError, code="E_IMAGE_COST", remedy="export it again as one ordinary PNG or JPEG, or remove it"
):
    """Opening the file takes more memory or work than any ordinary image takes. It is not used."""


class ImageDoubtError(
    DataError, code="E_IMAGE_DOUBT", remedy="check that it shows the right picture; if not, export it again"
):
    """The image is used, but its file holds more than one picture, or raw data that are not meant for viewing."""


class ImageTinyError(
    DataError,
    code="E_IMAGE_TINY",
    remedy="export it at its full size, or remove it; a preview is not enough to learn from",
):
    """The image has fewer than 8 pixels on a side, or fewer than half of the plan's image size. It is used."""


class ImageBlankError(DataError, code="E_IMAGE_BLANK", remedy="look at it, and remove it if it shows nothing"):
    """The image is black, white or of one colour throughout. It is used."""


class MaskPairError(
    DataError,
    code="E_MASK_PAIR",
    remedy="give each image a mask with its name, in a folder 'masks' beside 'images', or in one named with --masks",
):
    """An image has no mask, or a mask has no image. It is not used."""


class MaskSizeError(
    DataError, code="E_MASK_SIZE", remedy="export the mask of this very image, with as many pixels as the image has"
):
    """The mask has another size than its image: it may be that of another image. The image is not used."""


class MaskGridError(
    DataError, code="E_MASK_GRID", remedy="export the mask again from the very image that was outlined"
):
    """The mask lies elsewhere in the patient than its volume, or says that it outlines another image. The image is not
    used."""


class MaskLabelError(
    DataError,
    code="E_MASK_LABEL",
    remedy="write 0 for the background and 1, 2, ... for the plan's classes, as PNG: JPEG changes such numbers",
):
    """The mask has a value that is no class of the plan. The image is not used."""


class MaskKindError(
    DataError, code="E_MASK_KIND", remedy="export the mask as a PNG of one channel, in which each value is a class"
):
    """The mask is a picture in colours or has several frames, or is no DICOM segmentation that states the class of
    each pixel. The image is not used."""


class MaskEmptyError(
    DataError, code="E_MASK_EMPTY", remedy="nothing to do if the image shows nothing of it; otherwise outline it"
):
    """The mask outlines nothing: it is background throughout. The image is used."""


class MaskDoubtError(
    DataError, code="E_MASK_DOUBT", remedy="look at the outline: correct it if it is wrong, and keep it if it is right"
):
    """The mask differs much from the others: in the area that it outlines, or in its directions. The image is used."""


class ClassMissingError(
    DataError,
    code="E_CLASS_MISSING",
    remedy="nothing to do if this site has no such images; otherwise look for a folder with another name",
):
    """This site has no image of a class of the plan."""


class ClassTinyError(
    DataError, code="E_CLASS_TINY", remedy="add more if you can; figures for so few images say little"
):
    """A class has very few images."""


class ClassUnvalidatedError(
    DataError,
    code="E_CLASS_VALIDATION",
    remedy=(
        "before the first training add images of this class, of other patients, or leave it out; later, a table's "
        "column 'split' puts images into val"
    ),
):
    """A class has training images and no validation image. Nobody could tell how well the model knows it."""


class KeptSplitError(
    DataError,
    code="E_SPLIT",
    remedy="restore split.json from a backup; without it, training images could end up in the test set",
):
    """The file that records the split into train, val and test is damaged."""


# ---------------------------------------------------------------------------------------------------------------------
class TrainingError(FedhelpError):
    """Training"""


class NoImagesNamedError(
    TrainingError, code="E_IMAGES", remedy="name the folder, table or NPZ of images once; it is remembered"
):
    """No images to train on were named."""


class NotTrainedError(
    TrainingError, code="E_NOT_TRAINED", remedy="run 'fedhelp-edge train' or 'fedhelp-edge distill' first"
):
    """Nothing has been trained here yet."""


class BadPackError(
    TrainingError,
    code="E_PACK",
    remedy="build the pack again ('fedhelp-edge knowledge build --help' says how), or ask the coordinator for it again",
):
    """The knowledge pack, or a file that it is built from, is damaged or has the wrong form."""


class SourceAnswerError(
    TrainingError,
    code="E_SOURCE_ANSWER",
    remedy=(
        "mend the program, service or file (docs/spec/sources.md has the protocol); then run the same command again:"
        " saved answers are not asked for again"
    ),
):
    """A source of knowledge answers with something else than probabilities of the public classes for each image."""


class SourceStoppedError(
    TrainingError,
    code="E_SOURCE_STOPPED",
    remedy=(
        "see to the program, or wait until the service is back; then run the same command again: saved answers are not"
        " asked for again"
    ),
):
    """A program or service that gives knowledge ended, cannot be reached, or takes too long."""


class SourceKeyError(
    TrainingError,
    code="E_SOURCE_KEY",
    remedy="ask the service for a key, write it alone into a file that only you can read, and name it with --key-file",
):
    """A service that gives knowledge does not accept the key, or the key's file holds none."""


class PrivateImagesError(
    TrainingError,
    code="E_PRIVATE_IMAGES",
    remedy=(
        "name public images, in a folder or an NPZ of their own; or ask a model on this machine (clip:, torchvision:, "
        "nets:, files:)"
    ),
):
    """Images that may be private would be handed to a program or a service. None was."""


class BadPromptsError(
    TrainingError,
    code="E_PROMPTS",
    remedy=(
        "name a built-in set, or correct the file: templates with one {} each, and [classes] with a list of words for"
        " each class"
    ),
):
    """The prompts for CLIP are unknown, or their file has another form."""


class EncoderError(
    TrainingError,
    code="E_ENCODER",
    remedy=(
        "put the file that the plan names beside the plan, or name it with --encoder FILE;"
        " 'fedhelp-edge encoder show FILE' says what it is"
    ),
):
    """The plan's encoder is missing, is another file, or cannot turn images into features."""


class RevealingSumsError(
    TrainingError,
    code="E_REVEALING",
    remedy="ask the coordinator for a plan with fewer [ridge] dimensions, or take part when you have more images",
):
    """The sums of so few images would show their features. Nothing is sent."""


class DivergedError(
    TrainingError,
    code="E_DIVERGED",
    remedy=(
        "look at the named images, or lower the plan's learning rate (in a federation the coordinator does that); the"
        " last good state is kept"
    ),
):
    """The loss is NaN or infinite. Training stopped at once."""


# ---------------------------------------------------------------------------------------------------------------------
class ParcelError(FedhelpError):
    """A parcel is not whole"""


_AGAIN = "ask for the file again, and copy it as it is"


class BadMagicError(
    ParcelError,
    code="E_MAGIC",
    remedy="another kind of file, or altered on its way (text-mode copying changes line ends): " + _AGAIN,
):
    """The file does not begin as a parcel does."""


class TruncatedError(
    ParcelError,
    code="E_TRUNCATED",
    remedy="the copy is not complete; copy it again, and take the stick out only when the copy has ended",
):
    """The file ends too early."""


class TrailingError(ParcelError, code="E_TRAILING", remedy=_AGAIN):
    """The file has bytes after its end."""


class StatementSizeError(ParcelError, code="E_STATEMENT_SIZE", remedy=_AGAIN):
    """The statement, or the whole prologue before the payload, is longer than the format allows."""


class StatementCanonError(ParcelError, code="E_STATEMENT_CANON", remedy=_AGAIN):
    """The statement is not in canonical form (spaces, order of keys, escapes, a repeated key)."""


class StatementTypeError(ParcelError, code="E_STATEMENT_TYPE", remedy=_AGAIN):
    """The statement holds a value outside the format: a fraction, null, a negative number, or a non-ASCII letter."""


class StatementSchemaError(
    ParcelError,
    code="E_STATEMENT_SCHEMA",
    remedy="the file may come from a newer version of this kit; update it, or ask for the file again",
):
    """The statement lacks a key, has an extra one, or a key has a value of the wrong form."""


class StatementDepthError(ParcelError, code="E_STATEMENT_DEPTH", remedy=_AGAIN):
    """The statement is nested too deeply."""


class SigCountError(ParcelError, code="E_SIG_COUNT", remedy=_AGAIN):
    """A parcel carries one to eight signatures."""


class SigFormatError(ParcelError, code="E_SIG_FORMAT", remedy=_AGAIN):
    """A signature is not in the canonical form of SSHSIG."""


class SigNamespaceError(
    ParcelError,
    code="E_SIG_NAMESPACE",
    remedy="this signature was made for another purpose; do not trust the file, ask for it again",
):
    """The signature was made for another purpose."""


class SigAlgError(
    ParcelError, code="E_SIG_ALG", remedy="ask for the file again, signed with an Ed25519 key and SHA-512"
):
    """The signature uses a key type or hash that is not accepted here."""


class SigBadError(
    ParcelError,
    code="E_SIG_BAD",
    remedy="the file was altered after it was signed, or never signed by that key; do not trust it, ask for it again",
):
    """The signature is not valid."""


class PayloadSizeError(ParcelError, code="E_PAYLOAD_SIZE", remedy=_AGAIN):
    """The payload's size differs from the statement, is impossible or is not allowed."""


class PayloadHashError(ParcelError, code="E_PAYLOAD_HASH", remedy=_AGAIN):
    """The payload is not the one that was signed."""


class BadBodyError(
    ParcelError,
    code="E_BODY",
    remedy="the file may come from a newer version of this kit; update it, or ask for the file again",
):
    """The content of the parcel does not fit its kind."""


class InnerContextError(
    ParcelError,
    code="E_INNER_CONTEXT",
    remedy=(
        "refuse it with 'fedhelp-coordinator review SITE --refuse', and ask the site for its own update: somebody may"
        " have signed another's as their own"
    ),
):
    """The encrypted part names another sender, round or federation than the signed statement."""


# ---------------------------------------------------------------------------------------------------------------------
class AgeError(FedhelpError):
    """Decryption"""


class ArmorError(AgeError, code="E_AGE_ARMOR", remedy="copy the whole text, from its BEGIN line to its END line"):
    """The text form of an encrypted file is damaged."""


class HeaderError(AgeError, code="E_AGE_HEADER", remedy=_AGAIN):
    """The encrypted part does not begin with an age header."""


class MacError(AgeError, code="E_AGE_MAC", remedy=_AGAIN):
    """The header of the encrypted part was altered."""


class PayloadError(AgeError, code="E_AGE_PAYLOAD", remedy=_AGAIN):
    """The encrypted part was altered, cut short or lengthened. Nothing of it was released."""


class NoMatchError(
    AgeError,
    code="E_NO_MATCH",
    remedy="it was encrypted for somebody else; ask for one that is encrypted for this site",
):
    """No key here opens it."""


class RecipientTypeError(
    AgeError,
    code="E_AGE_RECIPIENT_TYPE",
    remedy=(
        "make the receiving key with this kit ('fedhelp-edge keys new'); it begins with age1, and no other kind is "
        "accepted"
    ),
):
    """It is encrypted to a kind of key that is not accepted here."""


class RoundKeyGoneError(
    AgeError, code="E_ROUND_KEY_GONE", remedy="the round is over and its key destroyed; take part in the current round"
):
    """The key that opens it belonged to a closed round and was destroyed."""


# ---------------------------------------------------------------------------------------------------------------------
class KeyStoreError(FedhelpError):
    """The keys of this site"""


class NoKeysError(
    KeyStoreError,
    code="E_KEYS_MISSING",
    remedy="make them with 'fedhelp-edge keys new', or bring them back with 'fedhelp-edge keys restore FILE'",
):
    """There are no keys here yet."""


class KeysExistError(
    KeyStoreError, code="E_KEYS_EXIST", remedy="keep the present keys; to start over choose another folder with --home"
):
    """There are keys here already, and keys are never overwritten."""


class KeysModeError(
    KeyStoreError,
    code="E_KEYS_MODE",
    remedy="let nobody else read it: chmod 600 on the file, chmod 700 on its folder, and no links",
):
    """Other users can read the key file, or it is a link."""


class KeysCorruptError(
    KeyStoreError,
    code="E_KEYS_CORRUPT",
    remedy=(
        "bring the keys back from the backup with 'fedhelp-edge keys restore FILE', or ask the coordinator for a "
        "new invite"
    ),
):
    """The key file is damaged."""


class WrongPassphraseError(
    KeyStoreError,
    code="E_PASSPHRASE",
    remedy=(
        "type it again (five words with hyphens, if it was made here); without it only the backup or a new invite helps"
    ),
):
    """The passphrase does not open the keys."""


class PassphraseNeededError(
    KeyStoreError,
    code="E_PASSPHRASE_NEEDED",
    remedy="type it at the prompt, or name a file that holds it with --passphrase-file",
):
    """The keys are locked, and nobody is there to type the passphrase."""


class WeakPassphraseError(
    KeyStoreError,
    code="E_PASSPHRASE_WEAK",
    remedy="take five unrelated words, or at least twelve characters that nobody would guess",
):
    """The new passphrase is too short, obvious or repeated. Whoever copies the key file can try millions."""


# ---------------------------------------------------------------------------------------------------------------------
class TrustError(FedhelpError):
    """Who may send what, and when"""


class SignerUnknownError(
    TrustError, code="E_SIGNER_UNKNOWN", remedy="ask the coordinator whether this site is in the roster"
):
    """The signing key is not in the roster."""


class SignerMismatchError(
    TrustError,
    code="E_SIGNER_MISMATCH",
    remedy="do not use the file: it speaks in another's name; ask the named sender for a new one",
):
    """The parcel was not signed with its sender's key."""


class SignerRevokedError(
    TrustError, code="E_SIGNER_REVOKED", remedy="ask the coordinator why; a site that lost its PC needs a new invite"
):
    """The sender's key was revoked."""


class SignerWindowError(
    TrustError, code="E_SIGNER_WINDOW", remedy="wait for the first round in which this site takes part"
):
    """The sender does not take part in this round yet."""


class SignerRoleError(
    TrustError,
    code="E_ROLE",
    remedy="do not use the file, and tell the coordinator; the coordinator's own parcels come with the next download",
):
    """The key is known, but its owner may not sign this kind of parcel."""


class RollbackError(
    TrustError, code="E_ROLLBACK", remedy="run 'fedhelp-edge download' again, or ask for a newer stick"
):
    """This file is older than one already known here."""


_COPIED_HUB = (
    "a hub copied back by hand needs 'fedhelp-coordinator backup FILE', "
    "then 'fedhelp-coordinator restore FILE --root-key DIR'"
)


class EquivocationError(
    TrustError,
    code="E_EQUIVOCATION",
    remedy="keep both files and phone the coordinator; " + _COPIED_HUB,
):
    """Two different parcels claim to be the same version."""


class ExpiredError(
    TrustError,
    code="E_EXPIRED",
    remedy=(
        "run 'fedhelp-edge download'; if that brings nothing newer, ask the coordinator to open a round, which "
        "renews the roster"
    ),
):
    """The roster has expired."""


class RootChainError(
    TrustError,
    code="E_ROOT_CHAIN",
    remedy="run 'fedhelp-edge download' again so that every version of the charter arrives in order",
):
    """The new charter does not follow from the charter that is known here."""


class ThresholdError(
    TrustError, code="E_THRESHOLD", remedy="have as many different root keys sign as the charter requires"
):
    """Too few root keys have signed."""


class PinnedKeyError(
    TrustError,
    code="E_PIN",
    remedy="stop, and phone the coordinator on a number you know: compare the words on both sides",
):
    """This is not the federation that this site joined."""


class TaskRosterError(
    TrustError, code="E_TASK_ROSTER", remedy="run 'fedhelp-edge download' again so that roster and task arrive together"
):
    """The task names another roster than the one here."""


class RotateProofError(
    TrustError, code="E_ROTATE_PROOF", remedy="sign the new keys with the old key as well as with the new one"
):
    """New keys must be signed by the old key and by the new one."""


class KeyReusedError(
    TrustError,
    code="E_KEY_REUSED",
    remedy=(
        "make new keys for each site and each federation ('fedhelp-edge keys new'); a site with restored keys needs"
        " only 'fedhelp-edge download'"
    ),
):
    """This key already belongs to somebody."""


class InviteCodeError(TrustError, code="E_INVITE_CODE", remedy="compare the code letter by letter with the original"):
    """The invite code is mistyped."""


class InviteUnknownError(TrustError, code="E_INVITE_UNKNOWN", remedy="ask the coordinator for a new invite"):
    """This invite does not exist."""


class InviteUsedError(
    TrustError, code="E_INVITE_USED", remedy="each invite works once; ask the coordinator for a new one"
):
    """The invite has already been used."""


class InviteExpiredError(TrustError, code="E_INVITE_EXPIRED", remedy="ask the coordinator for a new invite"):
    """The invite has expired."""


class InviteProofError(
    TrustError, code="E_INVITE_PROOF", remedy="join again with the code that the coordinator gave to this site"
):
    """The request does not prove that its sender knows the invite code."""


class FederationError(TrustError, code="E_FEDERATION", remedy="take the file that belongs to this federation"):
    """The parcel belongs to another federation."""


class ParcelKindError(
    TrustError, code="E_KIND", remedy="take the right file: 'fedhelp-edge inspect FILE' says what each is"
):
    """The parcel is of another kind than is needed here."""


class RoundUnknownError(TrustError, code="E_ROUND_UNKNOWN", remedy="run 'fedhelp-edge download' first"):
    """This round has not been opened."""


class RoundClosedError(
    TrustError, code="E_ROUND_CLOSED", remedy="run 'fedhelp-edge download', and take part in the current round"
):
    """The round is over."""


class WrongTaskError(TrustError, code="E_TASK", remedy="run 'fedhelp-edge download', then train or distill again"):
    """The update was made for another task than this round's."""


class BaseModelError(
    TrustError, code="E_BASE_MODEL", remedy="run 'fedhelp-edge download', then train or distill again"
):
    """The update starts from another model than this round's."""


class RecipientsError(TrustError, code="E_RECIPIENTS", remedy="run 'fedhelp-edge download', then upload again"):
    """The parcel is not encrypted for the recipients that the task names."""


class ReplayError(
    TrustError,
    code="E_REPLAY",
    remedy=(
        "nothing to do if it was sent twice by mistake; at a site restored from a backup: leave and join again with "
        "a new invite"
    ),
):
    """This parcel was seen before, or is older than one from the same sender."""


class LogRollbackError(
    TrustError,
    code="E_LOG_ROLLBACK",
    remedy="phone the coordinator; " + _COPIED_HUB,
):
    """The coordinator's log is shorter than one that it showed before."""


class SplitViewError(
    TrustError,
    code="E_SPLIT_VIEW",
    remedy="keep both files and phone the coordinator; " + _COPIED_HUB,
):
    """The coordinator's log differs from one of the same length that it showed before."""


class PrivacyChangedError(
    TrustError,
    code="E_PRIVACY",
    remedy="phone the coordinator; whoever agrees to the new settings runs 'fedhelp-edge leave' and joins again",
):
    """A task weakens or changes the site's privacy settings, or its helper has the coordinator's key."""


class PrivacySpentError(
    TrustError,
    code="E_PRIVACY_SPENT",
    remedy="this site is done: export its model with 'fedhelp-edge export', and phone the coordinator",
):
    """Training would tell more of this site's images than the plan's epsilon allows."""


class SpendDamagedError(
    TrustError,
    code="E_PRIVACY_RECORD",
    remedy="copy it from the folder HOME-privacy beside the home, or from a backup; without it nothing is trained",
):
    """A record of what training revealed of this site's images is damaged. Nobody knows what is left of the budget."""


class SetRefusedError(
    TrustError,
    code="E_SET",
    remedy="phone the coordinator: it names the sites again with 'fedhelp-coordinator aggregate' in the next round",
):
    """The coordinator asks the helper for a sum that it may not get: too few sites, wrong ones, or another plan's."""


class SetAnsweredError(
    TrustError,
    code="E_SET_ANSWERED",
    remedy="send the coordinator the answer that is in the carrier folder; another set comes in the next round",
):
    """The helper answered another set of sites already. Both sums together would show what one site sent."""


# ---------------------------------------------------------------------------------------------------------------------
class UpdateError(FedhelpError):
    """The weights of an update"""


_TRAIN_AGAIN = "update the kit, then train or distill again"
_MAKE_AGAIN = _TRAIN_AGAIN + "; for named weights: take the original file, made for this net"


class NotSafetensorsError(
    UpdateError,
    code="E_SAFETENSORS",
    remedy="weights travel only as safetensors; " + _MAKE_AGAIN,
):
    """The weights are not in the safetensors format."""


class TensorHeaderError(UpdateError, code="E_ST_HEADER", remedy=_MAKE_AGAIN):
    """The header of the weights has an impossible or forbidden length."""


class TensorLayoutError(UpdateError, code="E_ST_LAYOUT", remedy=_MAKE_AGAIN):
    """The tensors overlap, leave gaps, stand in another order than the header's, or do not fill the file."""


class TensorMetadataError(UpdateError, code="E_ST_META", remedy=_MAKE_AGAIN):
    """The weights carry metadata that is not allowed."""


class SchemaNamesError(UpdateError, code="E_SCHEMA_NAMES", remedy=_MAKE_AGAIN):
    """A tensor is missing, misnamed or one too many."""


class SchemaShapeError(UpdateError, code="E_SCHEMA_SHAPE", remedy=_MAKE_AGAIN):
    """A tensor's shape differs from the task's."""


class SchemaDtypeError(UpdateError, code="E_SCHEMA_DTYPE", remedy=_MAKE_AGAIN):
    """A tensor's number format differs from the task's."""


class NonFiniteError(
    UpdateError,
    code="E_NONFINITE",
    remedy="training went wrong: look for unusual images with 'fedhelp-edge check IMAGES', " + _TRAIN_AGAIN,
):
    """A tensor holds NaN or infinite values."""


class NormStatisticsError(UpdateError, code="E_BN_STATS", remedy=_MAKE_AGAIN):
    """The statistics of a normalisation layer are impossible."""


class NumberRangeError(
    UpdateError,
    code="E_RANGE",
    remedy="training went wrong: look for unusual images with 'fedhelp-edge check IMAGES', " + _TRAIN_AGAIN,
):
    """A tensor holds values far outside the range of trained weights."""


class ProbabilitiesError(UpdateError, code="E_PROBABILITIES", remedy=_MAKE_AGAIN):
    """A table of probabilities has rows that are negative or do not sum to 1."""


class SumsError(UpdateError, code="E_SUMS", remedy=_MAKE_AGAIN):
    """The sums are not those of any images, or of more images than the update claims."""


class SumRangeError(
    UpdateError,
    code="E_SUM_RANGE",
    remedy="at a site: train again; at the coordinator: open the next round, and phone the sites if it fails again",
):
    """In a secure sum: a number is beyond its limit, or the sum is one that no updates have. Nothing is merged."""


# ---------------------------------------------------------------------------------------------------------------------
class SiteError(FedhelpError):
    """Taking part"""


class NotJoinedError(
    SiteError,
    code="E_NOT_JOINED",
    remedy="join with 'fedhelp-edge join INVITE', or try a plan out without joining by --plan",
):
    """This computer has not joined a federation."""


class JoinedAlreadyError(
    SiteError, code="E_JOINED", remedy="use another --home for another federation, or 'fedhelp-edge leave' first"
):
    """This folder belongs to a site that has already joined a federation."""


class BadInviteError(
    SiteError,
    code="E_INVITE_FILE",
    remedy="ask the coordinator for the invite file again, or type the code with --url or --via",
):
    """The file is damaged, or is not an invite."""


class NotYetError(SiteError, code="E_NOT_YET", remedy="fedhelp-edge download"):
    """Something must come from the coordinator first: the admission, a task, or the model that it names."""


class TierError(SiteError, code="E_TIER", remedy="clinics run 'fedhelp-edge train', hospitals 'fedhelp-edge distill'"):
    """The command is for sites of the other tier."""


class NoCarrierError(SiteError, code="E_CARRIER", remedy="name a folder or stick with --via DIR"):
    """No way to carry parcels to the coordinator is known."""


class OfflineError(
    SiteError,
    code="E_OFFLINE",
    remedy="nothing is lost: run the same command again later, or carry it on a stick with --via DIR",
):
    """The coordinator cannot be reached over the network now."""


class NotAFrontError(
    OfflineError,
    code="E_NO_FRONT",
    remedy=(
        "check the address (--url); if the network asks you to sign in, do that first; nothing is lost, and a stick "
        "(--via DIR) works too"
    ),
):
    """The server at this address does not answer as a coordinator does. Its answer is not used."""

    def __init__(self, why: str) -> None:
        super().__init__(f"the server at this address is not a coordinator: {why}")


class RefusedThereError(
    SiteError, code="E_REFUSED", remedy="follow the coordinator's answer: its cause has a code too"
):
    """The coordinator's server refused the request. The cause has its own code."""

    def __init__(self, there: str, cause: str, remedy: str) -> None:
        super().__init__(f"{there}: {cause}", remedy=remedy)
        self.there = there


# ---------------------------------------------------------------------------------------------------------------------
class BundleError(FedhelpError):
    """The exported model, and diagnosing with it"""


class NoSignatureError(
    BundleError,
    code="E_BUNDLE_UNSIGNED",
    remedy="copy the file that ends in .onnx.sig beside it; without a signature, do not use the model",
):
    """No signature lies beside the model. The model is not opened."""


class BadBundleError(
    BundleError,
    code="E_BUNDLE",
    remedy="export the model again with this version of the kit, or ask for the file again",
):
    """The file is not a model that this kit exported, or its metadata does not fit."""


class MaskModelError(
    BundleError, code="E_MASK_MODEL", remedy="draw outlines with 'fedhelp-edge predict MODEL IMAGES --out FOLDER'"
):
    """The model draws outlines, and this command is for models of classes."""


class UnknownLayerError(
    BundleError,
    code="E_LAYER",
    remedy="use a net of the kit, or add its layer to export/walk.py, as CONTRIBUTING.md describes",
):
    """A net has a layer, or an end, that cannot be exported."""


class DisagreesError(
    BundleError,
    code="E_PARITY",
    remedy="do not diagnose with it here; update onnxruntime, or export the model again on this machine",
):
    """The model's answers on this machine differ from those at export."""


class TooFewError(
    BundleError,
    code="E_CALIBRATION",
    remedy=(
        "add new images that a table (labels.csv) puts into val (column split); or start in another --home with a "
        "higher [data] val in the plan"
    ),
):
    """There are too few validation images to decide when the model should say "don't know"."""


class OtherClassesError(
    BundleError, code="E_CLASSES", remedy="compare models of one federation, on images labelled with its classes"
):
    """Two models, or a model and the images, have different classes."""


class OtherKindError(
    BundleError,
    code="E_OTHER_KIND",
    remedy="use a model that was trained on such images; if you must answer with this one, add --any-kind",
):
    """A DICOM file has another modality, body part or photometric interpretation than the model's training images."""


class PacsOfflineError(
    BundleError,
    code="E_PACS",
    remedy="start the archive, and check address and AE titles on both sides; nothing is lost, and the node retries",
):
    """The archive (PACS) does not answer the node, or does not take a result."""


class OtherAnswersError(BundleError, code="E_ANSWERS", remedy="name another folder with --out"):
    """The folder holds the answers of another model, or they are damaged. Answers are never mixed."""


# ---------------------------------------------------------------------------------------------------------------------
class HubError(FedhelpError):
    """The coordinator"""


class NoHubError(
    HubError,
    code="E_HUB",
    remedy="make one with 'fedhelp-coordinator init --plan plan.toml', or name its folder with --home",
):
    """There is no hub in this folder."""


class KitIncompleteError(
    HubError,
    code="E_KIT",
    remedy="check the internet connection; if a package has no file for that system, name another Python with --python",
):
    """A package that the kit needs could not be downloaded."""


class KitDamagedError(
    HubError,
    code="E_KIT_DAMAGED",
    remedy="run nothing of it; copy the kit again, and if the error remains phone its maker",
):
    """A file of a kit is missing, or differs from the kit's list."""


class HubDamagedError(
    HubError,
    code="E_HUB_DAMAGED",
    remedy=(
        "do not write to it any more: move it away, and restore the newest backup with 'fedhelp-coordinator "
        "restore FILE --root-key DIR'"
    ),
):
    """The hub's database or one of its files is damaged."""


class HubNewerError(
    HubError, code="E_HUB_VERSION", remedy="update this program; an older version must not touch a newer hub"
):
    """The hub was written by a newer version of this program."""


class BadBackupError(HubError, code="E_BACKUP", remedy="take another backup; a damaged one cannot be restored in part"):
    """This is not a backup of a hub, or it is damaged."""


class NotNowError(HubError, code="E_STATE", remedy="see where the federation stands with 'fedhelp-coordinator status'"):
    """The federation is not in the state that this step needs."""


class FederationFullError(
    HubError,
    code="E_FULL",
    remedy="cancel unused invites, see 'fedhelp-coordinator invites'; for more sites begin a second federation",
):
    """The roster is full: it holds at most 4 MiB, some 13,000 sites. Nothing was changed."""


class ClockJumpError(
    HubError,
    code="E_CLOCK",
    remedy="set this machine's clock; if it is right, 'fedhelp-coordinator clock --accept' writes that into the log",
):
    """The clock is far from the last line of the hub's log. Nothing is written, for every deadline would move."""


class QuorumError(
    HubError,
    code="E_QUORUM",
    remedy="wait or remind the missing sites; after the deadline the quorum is enough, and --now closes before it",
):
    """Too few updates have arrived to aggregate them."""


class SiteUnknownError(
    HubError,
    code="E_SITE",
    remedy="see the sites with 'fedhelp-coordinator roster', and the waiting ones with 'fedhelp-coordinator requests'",
):
    """No site or request has this name."""


class AmbiguousError(HubError, code="E_AMBIGUOUS", remedy="name it by its listed id or hash"):
    """The name means more than one site, request or update, or another one than was shown. Nothing was decided."""


class KnowledgeMissingError(HubError, code="E_KNOWLEDGE", remedy="fedhelp-edge download"):
    """A knowledge pack is needed that is not here."""


class DuplicateRoundError(
    HubError, code="E_DUPLICATE_ROUND", remedy="nothing to do: the first update of a round counts"
):
    """Another update of this site for this round was accepted before."""


class ClaimedExamplesError(HubError, code="E_SAMPLES", remedy=_TRAIN_AGAIN):
    """The update claims an impossible number of training images."""


class LazyUpdateError(
    HubError,
    code="E_LAZY",
    remedy=(
        "ask the site whether it trained at all; 'fedhelp-coordinator review SITE --release' admits the update all "
        "the same"
    ),
):
    """The update is the site's starting model, unchanged."""


class CopiedUpdateError(
    HubError,
    code="E_COPY",
    remedy=(
        "phone the sites that sent it: only one can have trained it; release that one with 'fedhelp-coordinator "
        "review SITE --release', refuse the other with --refuse"
    ),
):
    """The update holds the same weights as another site's."""


class OpposedUpdateError(
    HubError,
    code="E_OPPOSED",
    remedy="look at the site's data and labels before 'fedhelp-coordinator review SITE --release'",
):
    """The update points against all the others."""


class DistantUpdateError(
    HubError,
    code="E_TOO_FAR",
    remedy="look at the site's data and training before 'fedhelp-coordinator review SITE --release'",
):
    """The update lies many times further from the base model than the others."""


class UnusualSumError(
    HubError,
    code="E_SUM_UNUSUAL",
    remedy="phone the sites; then 'fedhelp-coordinator review sum --release', or '--refuse': the model stays as it is",
):
    """In a secure sum: the sum of a round is unlike those of the rounds before. Its model waits for a person."""


class InflatedUpdateError(
    HubError,
    code="E_CLAIM",
    remedy=(
        "phone the site and ask how many images it trains with; 'fedhelp-coordinator review SITE --release' admits a "
        "true claim, now and in later rounds"
    ),
):
    """A site claims far more training images than the others. The claim decides how much its update weighs."""


class ResourceError(
    HubError,
    code="E_RESOURCE",
    remedy=(
        "refuse it with 'fedhelp-coordinator review SITE --refuse', and ask the site to update its kit and to "
        "train again; the file may be an attack"
    ),
):
    """Opening the update took more memory or time than any update needs."""


class LogBrokenError(
    HubError,
    code="E_LOG",
    remedy=(
        "somebody else changed the log: keep it as it is; the coordinator restores a backup into another --home "
        "with 'fedhelp-coordinator restore FILE --root-key DIR'"
    ),
):
    """The hash chain of the audit log is broken."""


class AuditGapError(
    HubError,
    code="E_AUDIT",
    remedy="ask the coordinator for the whole round: 'fedhelp-coordinator audit export ROUND DIR'",
):
    """The audit export is incomplete or contradicts itself."""


class QuotaError(
    HubError, code="E_QUOTA", remedy="finish or abandon the open uploads; if there are none, wait for the next round"
):
    """A site has more open uploads or bytes than it may have at a time."""


# ---------------------------------------------------------------------------------------------------------------------
class NetworkError(FedhelpError):
    """Between a site and the hub"""


class BadRequestError(
    NetworkError, code="E_REQUEST", remedy="update the kit on this side; docs/spec/http.md says how a request looks"
):
    """The hub does not understand the request."""


class UnsignedError(
    NetworkError,
    code="E_UNSIGNED",
    remedy="sign the request with the site's key and the nonce that came with this answer",
):
    """The request is for members only, and is not signed."""


class NonceError(
    NetworkError, code="E_NONCE", remedy="sign the request again with the nonce that came with this answer"
):
    """The request's nonce was used before, is too old, or is not the hub's."""


class NotHereError(
    NetworkError, code="E_NOT_HERE", remedy="run 'fedhelp-edge download' again; if this was an upload, start it again"
):
    """The hub has nothing of this name, or nothing that this site may see."""


class HttpMethodError(NetworkError, code="E_METHOD", remedy="docs/spec/http.md lists the methods of each address"):
    """The hub does not allow this method at this address."""


class UploadOffsetError(
    NetworkError, code="E_UPLOAD_OFFSET", remedy="ask for the upload's offset with HEAD, and continue from there"
):
    """The upload has another offset, or a newer request continues it."""


class UploadProtocolError(NetworkError, code="E_UPLOAD_PROTOCOL", remedy="send Tus-Resumable: 1.0.0"):
    """The upload does not use version 1.0.0 of the tus protocol."""


class MediaTypeError(
    NetworkError,
    code="E_MEDIA",
    remedy="send the bytes as they are, as application/offset+octet-stream, without Content-Encoding",
):
    """The hub does not accept this media type or compression."""


class BytesRangeError(NetworkError, code="E_BYTES_RANGE", remedy="ask for the whole parcel, or for a range inside it"):
    """The requested bytes lie outside the parcel."""


class RequestHeadersError(
    NetworkError, code="E_HEADERS", remedy="send fewer and shorter headers, and a shorter address"
):
    """The address or the headers of the request are too long."""


class SlowError(NetworkError, code="E_SLOW", remedy="try again on a better line; an upload continues where it stopped"):
    """The request arrived too slowly."""


class RateLimitError(
    NetworkError, code="E_RATE", remedy="wait as long as Retry-After says, then send the request again"
):
    """One sender made too many requests."""

    def __init__(self, cause: str, seconds: float = 1.0) -> None:
        super().__init__(cause)
        self.seconds = seconds


class DashboardLinkError(
    NetworkError,
    code="E_DASHBOARD",
    remedy="open the link that 'fedhelp-coordinator serve' showed; it works once, and a new start shows a new one",
):
    """Only the person who started the server may see the dashboard."""


class ListenError(
    NetworkError,
    code="E_LISTEN",
    remedy="choose another --port or --host, and check the files named with --tls-cert and --tls-key",
):
    """The server cannot listen at this address, or not with this certificate."""


# ---------------------------------------------------------------------------------------------------------------------
def from_os(error: OSError) -> FedhelpError:
    """An error of the operating system as one of this tree. Only the last part of a path is shown."""
    name = str(error.filename or "").replace("\\", "/").rstrip("/").rsplit("/", 1)[-1] or "a file"
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return NoSpaceError(f"no space left while writing {name}")
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return NoPermissionError(f"not allowed to read or write {name}")
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        if file := _file_above(str(error.filename or "")):
            return FileKindError(f"{file} is a file, not a folder", remedy="name a folder")
        return FileMissingError(f"{name} is not there")
    if error.errno in (errno.EISDIR, errno.ELOOP):
        return FileKindError(f"{name} is not an ordinary file")
    if error.errno == errno.EEXIST:
        return TargetExistsError(f"{name} is there already")
    return NoSpaceError(f"cannot read or write {name}: {(error.strerror or 'the disk does not answer').lower()}")


def _file_above(path: str) -> str:
    """The name of the file that is in the place of a folder of this path, or ""."""
    return next((part.name for part in (Path(path), *Path(path).parents) if part.is_file()), "")
