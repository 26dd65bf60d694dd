"""The texts of the local pages. No speaker of the language has checked a translation with `reviewed=False`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class LabelTexts:
    """The texts of the labelling page in one language."""

    reviewed: bool  # by a person who speaks it and works in a clinic
    title: str
    progress: str
    hint: str
    called: str
    open: str
    put_aside: str
    back: str
    on: str
    clear: str
    unsure: str
    undo: str
    all: str
    all_title: str
    stop: str
    broken: str
    unread: tuple[str, str]
    all_done: str
    rest: tuple[str, str]
    aside: tuple[str, str]
    ended: str
    ended_how: str
    column: tuple[str, str]
    problem_columns: tuple[str, str, str]
    no_class: str
    unsaved: str
    agreement: str
    kappa: str
    unreviewed: str


LABEL = {
    "en": LabelTexts(
        reviewed=True,
        title="Picture {number} of {total}",
        progress="{done} of {total} have a class.",
        hint=(
            "Press the key of a class, or click the class. Arrow keys go back and forward. 0 is unsure, "
            "Backspace undoes, + and - zoom. Each choice is saved at once."
        ),
        called="{file} has the class {name}.",
        open="{file} has no class yet.",
        put_aside="{file} is put aside: unsure.",
        back="Back",
        on="Next, without a class",
        clear="Remove the class",
        unsure="Unsure",
        undo="Undo",
        all="All pictures",
        all_title="All pictures, page {number} of {total}",
        stop="Stop for now",
        broken="This picture cannot be shown: {cause}. What to do: {remedy}.",
        unread=("file cannot be read", "files cannot be read"),
        all_done="Every picture has a class",
        rest=("picture has no class yet", "pictures have no class yet"),
        aside=("of them is put aside: unsure", "of them are put aside: unsure"),
        ended="Everything is saved",
        ended_how="You may close this page. To continue, run the same command again.",
        column=("class", "pictures"),
        problem_columns=("file", "why", "what to do"),
        no_class="no class",
        unsaved="Not saved yet: the program does not answer. Keep this page open.",
        agreement="{same} of {both} pictures have the same class as in labels.csv.",
        kappa="Cohen's kappa: {kappa}.",
        unreviewed="",
    ),
    "fr": LabelTexts(
        reviewed=False,
        title="Image {number} sur {total}",
        progress="{done} sur {total} ont une classe.",
        hint=(
            "Appuyez sur la touche d'une classe, ou cliquez sur la classe. Les flèches avancent et reculent. 0 "
            ": incertain, Retour arrière annule, + et - agrandissent. Chaque choix est enregistré aussitôt."
        ),
        called="{file} a la classe {name}.",
        open="{file} n'a pas encore de classe.",
        put_aside="{file} est mise de côté : incertain.",
        back="Retour",
        on="Suivante, sans classe",
        clear="Retirer la classe",
        unsure="Incertain",
        undo="Annuler",
        all="Toutes les images",
        all_title="Toutes les images, page {number} sur {total}",
        stop="Arrêter pour l'instant",
        broken="Cette image ne peut pas être montrée : {cause}. Que faire : {remedy}.",
        unread=("fichier ne peut pas être lu", "fichiers ne peuvent pas être lus"),
        all_done="Chaque image a une classe",
        rest=("image n'a pas encore de classe", "images n'ont pas encore de classe"),
        aside=("d'elles est mise de côté : incertain", "d'elles sont mises de côté : incertain"),
        ended="Tout est enregistré",
        ended_how="Vous pouvez fermer cette page. Pour continuer, lancez la même commande.",
        column=("classe", "images"),
        problem_columns=("fichier", "pourquoi", "que faire"),
        no_class="sans classe",
        unsaved="Pas encore enregistré : le programme ne répond pas. Gardez cette page ouverte.",
        agreement="{same} images sur {both} ont la même classe que dans labels.csv.",
        kappa="Kappa de Cohen : {kappa}.",
        unreviewed="Cette traduction n'a pas encore été relue. En cas de doute, la version anglaise fait foi.",
    ),
    "es": LabelTexts(
        reviewed=False,
        title="Imagen {number} de {total}",
        progress="{done} de {total} tienen una clase.",
        hint=(
            "Pulse la tecla de una clase, o haga clic en la clase. Las flechas avanzan y retroceden. 0: "
            "inseguro, Retroceso deshace, + y - amplían. Cada elección se guarda al instante."
        ),
        called="{file} tiene la clase {name}.",
        open="{file} aún no tiene clase.",
        put_aside="{file} está apartada: inseguro.",
        back="Atrás",
        on="Siguiente, sin clase",
        clear="Quitar la clase",
        unsure="Inseguro",
        undo="Deshacer",
        all="Todas las imágenes",
        all_title="Todas las imágenes, página {number} de {total}",
        stop="Parar por ahora",
        broken="Esta imagen no se puede mostrar: {cause}. Qué hacer: {remedy}.",
        unread=("archivo no se puede leer", "archivos no se pueden leer"),
        all_done="Cada imagen tiene una clase",
        rest=("imagen aún no tiene clase", "imágenes aún no tienen clase"),
        aside=("de ellas está apartada: inseguro", "de ellas están apartadas: inseguro"),
        ended="Todo está guardado",
        ended_how="Puede cerrar esta página. Para continuar, ejecute la misma orden.",
        column=("clase", "imágenes"),
        problem_columns=("archivo", "por qué", "qué hacer"),
        no_class="sin clase",
        unsaved="Aún no guardado: el programa no responde. Deje esta página abierta.",
        agreement="{same} de {both} imágenes tienen la misma clase que en labels.csv.",
        kappa="Kappa de Cohen: {kappa}.",
        unreviewed="Esta traducción aún no ha sido revisada. En caso de duda vale la versión inglesa.",
    ),
    "pt": LabelTexts(
        reviewed=False,
        title="Imagem {number} de {total}",
        progress="{done} de {total} têm uma classe.",
        hint=(
            "Prima a tecla de uma classe, ou clique na classe. As setas avançam e recuam. 0: incerto, "
            "Retrocesso anula, + e - ampliam. Cada escolha é guardada de imediato."
        ),
        called="{file} tem a classe {name}.",
        open="{file} ainda não tem classe.",
        put_aside="{file} está posta de lado: incerto.",
        back="Atrás",
        on="Seguinte, sem classe",
        clear="Retirar a classe",
        unsure="Incerto",
        undo="Anular",
        all="Todas as imagens",
        all_title="Todas as imagens, página {number} de {total}",
        stop="Parar por agora",
        broken="Esta imagem não pode ser mostrada: {cause}. O que fazer: {remedy}.",
        unread=("ficheiro não pode ser lido", "ficheiros não podem ser lidos"),
        all_done="Cada imagem tem uma classe",
        rest=("imagem ainda não tem classe", "imagens ainda não têm classe"),
        aside=("delas está posta de lado: incerto", "delas estão postas de lado: incerto"),
        ended="Tudo está guardado",
        ended_how="Pode fechar esta página. Para continuar, execute o mesmo comando.",
        column=("classe", "imagens"),
        problem_columns=("ficheiro", "porquê", "o que fazer"),
        no_class="sem classe",
        unsaved="Ainda não guardado: o programa não responde. Mantenha esta página aberta.",
        agreement="{same} de {both} imagens têm a mesma classe que em labels.csv.",
        kappa="Kappa de Cohen: {kappa}.",
        unreviewed="Esta tradução ainda não foi revista. Em caso de dúvida vale a versão inglesa.",
    ),
    "sw": LabelTexts(
        reviewed=False,
        title="Picha {number} kati ya {total}",
        progress="{done} kati ya {total} zina kundi.",
        hint=(
            "Bonyeza kitufe cha kundi, au bofya kundi. Mishale hurudi na kuendelea. 0 ni kutokuwa na uhakika, "
            "Backspace hutengua, + na - hukuza. Kila chaguo huhifadhiwa mara moja."
        ),
        called="{file} ina kundi {name}.",
        open="{file} bado haina kundi.",
        put_aside="{file} imewekwa kando: hakuna uhakika.",
        back="Rudi",
        on="Inayofuata, bila kundi",
        clear="Ondoa kundi",
        unsure="Sina uhakika",
        undo="Tengua",
        all="Picha zote",
        all_title="Picha zote, ukurasa {number} kati ya {total}",
        stop="Simama kwa sasa",
        broken="Picha hii haiwezi kuonyeshwa: {cause}. La kufanya: {remedy}.",
        unread=("faili haisomeki", "faili hazisomeki"),
        all_done="Kila picha ina kundi",
        rest=("picha bado haina kundi", "picha bado hazina kundi"),
        aside=("imewekwa kando: hakuna uhakika", "zimewekwa kando: hakuna uhakika"),
        ended="Kila kitu kimehifadhiwa",
        ended_how="Unaweza kufunga ukurasa huu. Kuendelea, tumia amri ileile.",
        column=("kundi", "picha"),
        problem_columns=("faili", "kwa nini", "la kufanya"),
        no_class="bila kundi",
        unsaved="Bado haijahifadhiwa: programu haijibu. Acha ukurasa huu wazi.",
        agreement="Picha {same} kati ya {both} zina kundi lilelile kama katika labels.csv.",
        kappa="Kappa ya Cohen: {kappa}.",
        unreviewed="Tafsiri hii bado haijakaguliwa. Ukiwa na shaka, fuata Kiingereza.",
    ),
}


@dataclass(frozen=True)
class DiagnosisTexts:
    """The texts of the diagnosis page in one language."""

    reviewed: bool  # by a person who speaks it and works in a clinic
    title: str
    notice: str
    private: str
    logged: str  # in its place, where answers are logged
    choose: str
    file: str
    ask: str
    busy: str
    answer: str
    unknown: str
    unlike: str
    none: str
    several: str
    either: str
    near: str
    also: str
    unsure: str
    picture: str
    heatmap: str
    legend: str
    strength: str
    beside: str
    zoom_in: str
    zoom_out: str
    whole: str
    invert: str
    window: str
    windows: tuple[str, str, str, str]  # as stored, more contrast, dark parts, bright parts
    print: str
    keys: str
    files: str
    columns: tuple[str, str, str, str]
    yes: str
    set: str
    note: str
    refused: str
    cause: str
    remedy: str
    model: str
    doubt: str
    card: str
    stop: str
    ended: str
    ended_how: str
    unreviewed: str
    codes: Mapping[str, str] = field(default_factory=dict)  # code -> meaning; English errors explain themselves


DIAGNOSIS = {
    "en": DiagnosisTexts(
        reviewed=True,
        title="{name}: diagnosis",
        notice="Not a medical device: a help for trained staff, who decide.",
        private="Images stay on this computer. Neither images nor answers are sent or stored.",
        logged="Images stay on this computer. What was answered, and when, is written to a file on it.",
        choose="Choose images or DICOM files, or drop them anywhere on this page.",
        file="Images or DICOM files",
        ask="Diagnose",
        busy="Looking at it ...",
        answer="Answer: {name}",
        unknown="Don't know: {reason}",
        unlike="unlike the training images ({times} times the distance limit)",
        none="no class is likely enough",
        several="it may be {names}",
        either=" or ",
        near="uncertain between {names}",
        also=" and ",
        unsure="{name} is likeliest, but not likely enough to be sure",
        picture="The image",
        heatmap="The image with the heat-map for {name}",
        legend="Orange speaks for {name}, blue against it, compared with the mean of all classes ({fields} x {fields} "
        "fields). The heat-map shows where the model looked, not where a disease is.",
        strength="Strength of the heat-map",
        beside="Side by side",
        zoom_in="Zoom in",
        zoom_out="Zoom out",
        whole="Whole image",
        invert="Invert",
        window="Brightness",
        windows=("as stored", "more contrast", "dark parts", "bright parts"),
        print="Print",
        keys=(
            "Mouse: the wheel zooms, dragging moves, dragging with the right button changes contrast and "
            "brightness. Keys: + and - zoom, 0 resets, H heat-map, B side by side, I inverts, arrows change the "
            "image."
        ),
        files="Images",
        columns=("class", "probability", "possible", "flagged"),
        yes="yes",
        set="Cannot be ruled out: {names}.",
        note="Note",
        refused="This file cannot be used",
        cause="Why",
        remedy="What to do",
        model="Model {sha256}, round {round}.",
        doubt="This model is not trusted here",
        card="The model's card",
        stop="Stop",
        ended="The page has stopped",
        ended_how="You may close this page.",
        unreviewed="",
    ),
    "fr": DiagnosisTexts(
        reviewed=False,
        title="{name} : diagnostic",
        notice="Ce n'est pas un dispositif médical : c'est une aide pour du personnel formé, qui décide.",
        private="Les images restent sur cet ordinateur : elles ne sont envoyées nulle part, et ni elles ni les "
        "réponses ne sont conservées.",
        logged="Les images restent sur cet ordinateur. Les réponses et leur heure sont écrites dans un fichier local.",
        choose="Choisissez des images ou des fichiers DICOM, ou déposez-les n'importe où sur cette page.",
        file="Images ou fichiers DICOM",
        ask="Diagnostiquer",
        busy="Examen en cours ...",
        answer="Réponse : {name}",
        unknown="Ne sait pas : {reason}",
        unlike="différente des images de l'apprentissage ({times} fois la distance permise)",
        none="aucune classe n'est assez probable",
        several="ce peut être {names}",
        either=" ou ",
        near="incertain entre {names}",
        also=" et ",
        unsure="{name} est la plus probable, mais pas assez pour être sûr",
        picture="L'image",
        heatmap="L'image avec la carte de chaleur pour {name}",
        legend="L'orange parle pour {name}, le bleu contre, par rapport à la moyenne de toutes les classes, en "
        "{fields} x {fields} champs. Cela montre où le modèle a regardé, pas où se trouve une maladie.",
        strength="Intensité de la carte de chaleur",
        beside="Côte à côte",
        zoom_in="Agrandir",
        zoom_out="Réduire",
        whole="Image entière",
        invert="Inverser",
        window="Luminosité",
        windows=("comme enregistrée", "plus de contraste", "parties sombres", "parties claires"),
        print="Imprimer",
        keys=(
            "Souris : la molette agrandit, glisser déplace, glisser avec le bouton droit change le contraste et "
            "la luminosité. Touches : + et - agrandissent ou réduisent, 0 rétablit, H carte de chaleur, B côte à "
            "côte, I inverse, les flèches changent d’image."
        ),
        files="Images",
        columns=("classe", "probabilité", "possible", "signalée"),
        yes="oui",
        set="Ne peut être exclu : {names}.",
        note="Remarque",
        refused="Ce fichier ne peut pas être utilisé",
        cause="Pourquoi",
        remedy="Que faire",
        model="Modèle {sha256}, tour {round}.",
        doubt="Ce modèle n'est pas reconnu ici",
        card="La fiche du modèle",
        stop="Arrêter",
        ended="C'est terminé",
        ended_how="Vous pouvez fermer cette page.",
        unreviewed="Cette traduction n'a pas encore été relue. En cas de doute, la version anglaise fait foi.",
        codes={
            "E_IMAGE": "Le fichier ne peut pas être lu comme une image : copiez-le de nouveau depuis l'original.",
            "E_IMAGE_KIND": "Ce genre de fichier n'est pas lu ici : exportez une seule image (PNG, JPEG ou DICOM).",
            "E_IMAGE_SIZE": "L'image est trop grande : exportez-la à une taille ordinaire.",
            "E_HEIC": "Les photos HEIC ne sont pas lues ici : exportez en JPEG.",
            "E_NO_IMAGES": "Aucun fichier n'a été choisi, ou il y en a trop à la fois.",
        },
    ),
    "es": DiagnosisTexts(
        reviewed=False,
        title="{name}: diagnóstico",
        notice="No es un dispositivo médico: es una ayuda para personal formado, que es quien decide.",
        private="Las imágenes se quedan en este ordenador: no se envían a ninguna parte, y no se guardan ni ellas ni "
        "las respuestas.",
        logged="Las imágenes se quedan en este ordenador. Las respuestas y su hora se escriben en un archivo local.",
        choose="Elija imágenes o archivos DICOM, o suéltelos en cualquier lugar de esta página.",
        file="Imágenes o archivos DICOM",
        ask="Diagnosticar",
        busy="Examinando ...",
        answer="Respuesta: {name}",
        unknown="No lo sabe: {reason}",
        unlike="distinta de las imágenes con las que se entrenó ({times} veces la distancia permitida)",
        none="ninguna clase es bastante probable",
        several="puede ser {names}",
        either=" o ",
        near="incierto entre {names}",
        also=" y ",
        unsure="{name} es la más probable, pero no lo bastante para estar seguro",
        picture="La imagen",
        heatmap="La imagen con el mapa de calor para {name}",
        legend="El naranja habla a favor de {name}, el azul en contra, respecto a la media de todas las clases, en "
        "{fields} x {fields} campos. Muestra dónde miró el modelo, no dónde hay una enfermedad.",
        strength="Intensidad del mapa de calor",
        beside="Lado a lado",
        zoom_in="Ampliar",
        zoom_out="Reducir",
        whole="Imagen entera",
        invert="Invertir",
        window="Brillo",
        windows=("como se guardó", "más contraste", "partes oscuras", "partes claras"),
        print="Imprimir",
        keys=(
            "Ratón: la rueda amplía, arrastrar mueve, arrastrar con el botón derecho cambia el contraste y el "
            "brillo. Teclas: + y - amplían o reducen, 0 restablece, H mapa de calor, B lado a lado, I invierte, "
            "las flechas cambian de imagen."
        ),
        files="Imágenes",
        columns=("clase", "probabilidad", "posible", "señalada"),
        yes="sí",
        set="No se puede descartar: {names}.",
        note="Nota",
        refused="Este archivo no se puede usar",
        cause="Por qué",
        remedy="Qué hacer",
        model="Modelo {sha256}, ronda {round}.",
        doubt="Aquí no se confía en este modelo",
        card="La ficha del modelo",
        stop="Terminar",
        ended="Ha terminado",
        ended_how="Puede cerrar esta página.",
        unreviewed="Esta traducción aún no ha sido revisada. En caso de duda vale la versión inglesa.",
        codes={
            "E_IMAGE": "El archivo no se puede leer como imagen: cópielo de nuevo desde el original.",
            "E_IMAGE_KIND": "Esta clase de archivo no se lee aquí: exporte una sola imagen (PNG, JPEG o DICOM).",
            "E_IMAGE_SIZE": "La imagen es demasiado grande: expórtela a un tamaño corriente.",
            "E_HEIC": "Las fotos HEIC no se leen aquí: expórtelas como JPEG.",
            "E_NO_IMAGES": "No se ha elegido ningún archivo, o son demasiados a la vez.",
        },
    ),
    "pt": DiagnosisTexts(
        reviewed=False,
        title="{name}: diagnóstico",
        notice="Não é um dispositivo médico: é uma ajuda para pessoal formado, que é quem decide.",
        private="As imagens ficam neste computador: não são enviadas para lado nenhum, e nem elas nem as respostas são "
        "guardadas.",
        logged="As imagens ficam neste computador. As respostas e a sua hora são escritas num ficheiro local.",
        choose="Escolha imagens ou ficheiros DICOM, ou largue-os em qualquer lugar desta página.",
        file="Imagens ou ficheiros DICOM",
        ask="Diagnosticar",
        busy="A examinar ...",
        answer="Resposta: {name}",
        unknown="Não sabe: {reason}",
        unlike="diferente das imagens com que foi treinado ({times} vezes a distância permitida)",
        none="nenhuma classe é bastante provável",
        several="pode ser {names}",
        either=" ou ",
        near="incerto entre {names}",
        also=" e ",
        unsure="{name} é a mais provável, mas não o bastante para ter a certeza",
        picture="A imagem",
        heatmap="A imagem com o mapa de calor para {name}",
        legend="O laranja fala a favor de {name}, o azul contra, em relação à média de todas as classes, em {fields} x "
        "{fields} campos. Mostra para onde o modelo olhou, não onde há uma doença.",
        strength="Intensidade do mapa de calor",
        beside="Lado a lado",
        zoom_in="Ampliar",
        zoom_out="Reduzir",
        whole="Imagem inteira",
        invert="Inverter",
        window="Brilho",
        windows=("como guardada", "mais contraste", "partes escuras", "partes claras"),
        print="Imprimir",
        keys=(
            "Rato: a roda amplia, arrastar move, arrastar com o botão direito muda o contraste e o brilho. "
            "Teclas: + e - ampliam ou reduzem, 0 repõe, H mapa de calor, B lado a lado, I inverte, as setas mudam "
            "de imagem."
        ),
        files="Imagens",
        columns=("classe", "probabilidade", "possível", "assinalada"),
        yes="sim",
        set="Não se pode excluir: {names}.",
        note="Nota",
        refused="Este ficheiro não pode ser usado",
        cause="Porquê",
        remedy="O que fazer",
        model="Modelo {sha256}, ronda {round}.",
        doubt="Aqui não se confia neste modelo",
        card="A ficha do modelo",
        stop="Terminar",
        ended="Terminou",
        ended_how="Pode fechar esta página.",
        unreviewed="Esta tradução ainda não foi revista. Em caso de dúvida vale a versão inglesa.",
        codes={
            "E_IMAGE": "O ficheiro não pode ser lido como imagem: copie-o de novo a partir do original.",
            "E_IMAGE_KIND": "Este tipo de ficheiro não é lido aqui: exporte uma só imagem (PNG, JPEG ou DICOM).",
            "E_IMAGE_SIZE": "A imagem é demasiado grande: exporte-a num tamanho comum.",
            "E_HEIC": "As fotografias HEIC não são lidas aqui: exporte como JPEG.",
            "E_NO_IMAGES": "Nenhum ficheiro foi escolhido, ou são demasiados de uma vez.",
        },
    ),
    "sw": DiagnosisTexts(
        reviewed=False,
        title="{name}: uchunguzi",
        notice="Hiki si kifaa cha tiba: ni msaada kwa wahudumu waliofunzwa, ambao ndio wanaoamua.",
        private="Picha zinabaki kwenye kompyuta hii: hazitumwi popote, na wala picha wala majibu hayahifadhiwi.",
        logged="Picha zinabaki kwenye kompyuta hii. Majibu na saa yake yanaandikwa kwenye faili la kompyuta hii.",
        choose="Chagua picha au faili za DICOM, au ziachie popote kwenye ukurasa huu.",
        file="Picha au faili za DICOM",
        ask="Chunguza",
        busy="Inaangalia ...",
        answer="Jibu: {name}",
        unknown="Haijui: {reason}",
        unlike="haifanani na picha ilizofunzwa nazo (mara {times} ya umbali unaoruhusiwa)",
        none="hakuna kundi lenye uwezekano wa kutosha",
        several="huenda ni {names}",
        either=" au ",
        near="haina uhakika kati ya {names}",
        also=" na ",
        unsure="{name} ina uwezekano mkubwa zaidi, lakini hautoshi kuwa na uhakika",
        picture="Picha",
        heatmap="Picha pamoja na ramani ya joto ya {name}",
        legend="Rangi ya machungwa inaunga mkono {name}, buluu inapinga, ikilinganishwa na wastani wa makundi yote, "
        "katika sehemu {fields} x {fields}. Inaonyesha mahali modeli ilipoangalia, si mahali penye ugonjwa.",
        strength="Nguvu ya ramani ya joto",
        beside="Kando kwa kando",
        zoom_in="Kuza",
        zoom_out="Punguza",
        whole="Picha nzima",
        invert="Geuza rangi",
        window="Mwangaza",
        windows=("kama ilivyohifadhiwa", "tofauti zaidi", "sehemu za giza", "sehemu angavu"),
        print="Chapisha",
        keys=(
            "Kipanya: gurudumu hukuza, kuburuta husogeza, kuburuta kwa kitufe cha kulia hubadilisha tofauti na "
            "mwangaza. Vitufe: + na - hukuza au hupunguza, 0 hurejesha, H ramani ya joto, B kando kwa kando, I "
            "hugeuza rangi, mishale hubadilisha picha."
        ),
        files="Picha",
        columns=("kundi", "uwezekano", "inawezekana", "imewekewa alama"),
        yes="ndiyo",
        set="Haiwezi kuondolewa: {names}.",
        note="Angalizo",
        refused="Faili hii haiwezi kutumika",
        cause="Kwa nini",
        remedy="La kufanya",
        model="Modeli {sha256}, mzunguko {round}.",
        doubt="Modeli hii haiaminiki hapa",
        card="Maelezo ya modeli",
        stop="Maliza",
        ended="Imekwisha",
        ended_how="Unaweza kufunga ukurasa huu.",
        unreviewed="Tafsiri hii bado haijakaguliwa. Ukiwa na shaka, fuata Kiingereza.",
        codes={
            "E_IMAGE": "Faili haisomeki kama picha: inakili tena kutoka ilikotoka.",
            "E_IMAGE_KIND": "Aina hii ya faili haisomwi hapa: toa picha moja ya kawaida (PNG, JPEG au DICOM).",
            "E_IMAGE_SIZE": "Picha ni kubwa mno: itoe kwa ukubwa wa kawaida.",
            "E_HEIC": "Picha za HEIC hazisomwi hapa: zitoe kama JPEG.",
            "E_NO_IMAGES": "Hakuna faili iliyochaguliwa, au ni nyingi mno kwa mara moja.",
        },
    ),
}


@dataclass(frozen=True)
class ViewerTexts:
    """What the diagnosis page says of outlines, slices and frames; as far reviewed as its other texts."""

    slice: str
    frame: str
    position: str
    others: str
    gone: str
    slice_keys: str
    presets: tuple[str, str, str, str]  # of Hounsfield units: lung, bone, soft tissue, brain
    preset_keys: str
    choose_volumes: str
    volume_file: str
    outlined: str
    nothing: str
    doubtful: str
    share: str
    outlines: str
    legend: str
    strength: str
    keys: str
    columns: tuple[str, str, str, str]  # class, area, volume, how much of it is uncertain
    pixels: str
    uncertain: str
    save: str
    save_uncertain: str


VIEWER = {
    "en": ViewerTexts(
        slice="Slice",
        frame="Frame",
        position="{what} {number} of {count}",
        others="Others",
        gone="These images are no longer kept. Choose the files again.",
        slice_keys=(
            "Of several slices or frames, the wheel and the arrows up and down show others; with Ctrl the wheel zooms."
        ),
        presets=("lung", "bone", "soft tissue", "brain"),
        preset_keys="1 to 4 choose lung, bone, soft tissue and brain.",
        choose_volumes="Choose NIfTI files, or all files of a DICOM series, or drop them anywhere on this page.",
        volume_file="Volumes",
        outlined="Outlined: {names}",
        nothing="Nothing is outlined",
        doubtful="Outlined, but uncertain: {reason}",
        share="{share} of the outlined pixels are uncertain; up to {limit} is usual",
        outlines="What the model outlines",
        legend=(
            "Each class has its colour. Yellow dots mark pixels of which the model is uncertain. Outlines show "
            "what the model found, not a diagnosis."
        ),
        strength="Strength of the outlines",
        keys=(
            "Mouse: the wheel zooms, dragging moves, dragging with the right button changes contrast and "
            "brightness. Keys: + and - zoom, 0 resets, H outlines, I inverts, left and right change the image."
        ),
        columns=("class", "area", "volume", "uncertain"),
        pixels="{count} pixels",
        uncertain="all uncertain pixels",
        save="Save the mask",
        save_uncertain="Save the uncertain pixels",
    ),
    "fr": ViewerTexts(
        slice="Coupe",
        frame="Vue",
        position="{what} {number} sur {count}",
        others="Autres",
        gone="Ces images ne sont plus en mémoire. Choisissez de nouveau les fichiers.",
        slice_keys=(
            "De plusieurs coupes ou vues, la molette et les flèches haut et bas en montrent d'autres ; "
            "avec Ctrl la molette agrandit."
        ),
        presets=("poumon", "os", "tissus mous", "cerveau"),
        preset_keys="1 à 4 choisissent poumon, os, tissus mous et cerveau.",
        choose_volumes=(
            "Choisissez des fichiers NIfTI ou tous les fichiers d'une série DICOM, ou déposez-les n'importe où "
            "sur cette page."
        ),
        volume_file="Volumes",
        outlined="Contours : {names}",
        nothing="Aucun contour",
        doubtful="Contours incertains : {reason}",
        share="{share} des pixels des contours sont incertains ; jusqu'à {limit} est habituel",
        outlines="Ce que le modèle délimite",
        legend=(
            "Chaque classe a sa couleur. Les points jaunes marquent les pixels incertains. Les contours montrent "
            "ce que le modèle a trouvé, pas un diagnostic."
        ),
        strength="Intensité des contours",
        keys=(
            "Souris : la molette agrandit, glisser déplace, glisser avec le bouton droit change le contraste et "
            "la luminosité. Touches : + et - agrandissent ou réduisent, 0 rétablit, H contours, I inverse, gauche"
            " et droite changent d'image."
        ),
        columns=("classe", "surface", "volume", "incertain"),
        pixels="{count} pixels",
        uncertain="tous les pixels incertains",
        save="Enregistrer le masque",
        save_uncertain="Enregistrer les pixels incertains",
    ),
    "es": ViewerTexts(
        slice="Corte",
        frame="Cuadro",
        position="{what} {number} de {count}",
        others="Otros",
        gone="Estas imágenes ya no están en memoria. Elija de nuevo los archivos.",
        slice_keys=(
            "De varios cortes o cuadros, la rueda y las flechas arriba y abajo muestran otros; con Ctrl"
            " la rueda amplía."
        ),
        presets=("pulmón", "hueso", "partes blandas", "cerebro"),
        preset_keys="1 a 4 eligen pulmón, hueso, partes blandas y cerebro.",
        choose_volumes=(
            "Elija archivos NIfTI o todos los archivos de una serie DICOM, o suéltelos en cualquier lugar de esta"
            " página."
        ),
        volume_file="Volúmenes",
        outlined="Contornos: {names}",
        nothing="Ningún contorno",
        doubtful="Contornos inciertos: {reason}",
        share="{share} de los píxeles de los contornos son inciertos; hasta {limit} es habitual",
        outlines="Lo que delimita el modelo",
        legend=(
            "Cada clase tiene su color. Los puntos amarillos marcan los píxeles inciertos. Los contornos muestran"
            " lo que encontró el modelo, no un diagnóstico."
        ),
        strength="Intensidad de los contornos",
        keys=(
            "Ratón: la rueda amplía, arrastrar mueve, arrastrar con el botón derecho cambia el contraste y el "
            "brillo. Teclas: + y - amplían o reducen, 0 restablece, H contornos, I invierte, izquierda y derecha "
            "cambian de imagen."
        ),
        columns=("clase", "área", "volumen", "incierto"),
        pixels="{count} píxeles",
        uncertain="todos los píxeles inciertos",
        save="Guardar la máscara",
        save_uncertain="Guardar los píxeles inciertos",
    ),
    "pt": ViewerTexts(
        slice="Corte",
        frame="Quadro",
        position="{what} {number} de {count}",
        others="Outros",
        gone="Estas imagens já não estão em memória. Escolha de novo os ficheiros.",
        slice_keys=(
            "De vários cortes ou quadros, a roda e as setas para cima e para baixo mostram outros; com "
            "Ctrl a roda amplia."
        ),
        presets=("pulmão", "osso", "partes moles", "cérebro"),
        preset_keys="1 a 4 escolhem pulmão, osso, partes moles e cérebro.",
        choose_volumes=(
            "Escolha ficheiros NIfTI ou todos os ficheiros de uma série DICOM, ou largue-os em qualquer lugar "
            "desta página."
        ),
        volume_file="Volumes",
        outlined="Contornos: {names}",
        nothing="Nenhum contorno",
        doubtful="Contornos incertos: {reason}",
        share="{share} dos píxeis dos contornos são incertos; até {limit} é habitual",
        outlines="O que o modelo delimita",
        legend=(
            "Cada classe tem a sua cor. Os pontos amarelos marcam os píxeis incertos. Os contornos mostram o que "
            "o modelo encontrou, não um diagnóstico."
        ),
        strength="Intensidade dos contornos",
        keys=(
            "Rato: a roda amplia, arrastar move, arrastar com o botão direito muda o contraste e o brilho. "
            "Teclas: + e - ampliam ou reduzem, 0 repõe, H contornos, I inverte, esquerda e direita mudam de "
            "imagem."
        ),
        columns=("classe", "área", "volume", "incerto"),
        pixels="{count} píxeis",
        uncertain="todos os píxeis incertos",
        save="Guardar a máscara",
        save_uncertain="Guardar os píxeis incertos",
    ),
    "sw": ViewerTexts(
        slice="Kipande",
        frame="Fremu",
        position="{what} {number} kati ya {count}",
        others="Nyingine",
        gone="Picha hizi hazimo tena kwenye kumbukumbu. Chagua faili tena.",
        slice_keys=(
            "Penye vipande au fremu kadhaa, gurudumu na mishale ya juu na chini huonyesha vingine; "
            "pamoja na Ctrl gurudumu hukuza."
        ),
        presets=("mapafu", "mfupa", "tishu laini", "ubongo"),
        preset_keys="1 hadi 4 huchagua mapafu, mfupa, tishu laini na ubongo.",
        choose_volumes=(
            "Chagua faili za NIfTI au faili zote za mfululizo wa DICOM, au ziachie popote kwenye ukurasa huu."
        ),
        volume_file="Picha za ujazo",
        outlined="Imechorwa: {names}",
        nothing="Hakuna kilichochorwa",
        doubtful="Imechorwa, lakini hakuna uhakika: {reason}",
        share="{share} ya pikseli zilizochorwa hazina uhakika; hadi {limit} ni kawaida",
        outlines="Mipaka inayochorwa na modeli",
        legend=(
            "Kila kundi lina rangi yake. Nukta za njano zinaonyesha pikseli zisizo na uhakika. Mipaka inaonyesha "
            "kile modeli ilichokiona, si utambuzi wa ugonjwa."
        ),
        strength="Nguvu ya mipaka",
        keys=(
            "Kipanya: gurudumu hukuza, kuburuta husogeza, kuburuta kwa kitufe cha kulia hubadilisha tofauti na "
            "mwangaza. Vitufe: + na - hukuza au hupunguza, 0 hurejesha, H mipaka, I hugeuza rangi, kushoto na "
            "kulia hubadilisha picha."
        ),
        columns=("kundi", "eneo", "ujazo", "bila uhakika"),
        pixels="pikseli {count}",
        uncertain="pikseli zote zisizo na uhakika",
        save="Hifadhi mipaka",
        save_uncertain="Hifadhi pikseli zisizo na uhakika",
    ),
}


def choose_language(accepted: str) -> str:
    """Choose the language that a browser (its Accept-Language) prefers; English if it names none of ours."""
    best, best_weight = "en", 0.0
    for part in accepted.lower().replace(" ", "").split(","):
        name, _, weight = part.partition(";q=")
        code = "en" if name == "*" else name.partition("-")[0]
        preference = float(weight) if re.fullmatch(r"[01](\.\d{1,3})?", weight) else float(not weight)
        if code in DIAGNOSIS and preference > best_weight:
            best, best_weight = code, preference
    return best
