"""The texts of the outlining page, for pictures and for volumes.

No speaker of the language has checked a translation with `reviewed=False`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any


@dataclass(frozen=True)
class OutlineTexts:
    """The texts of the outlining page in one language."""

    reviewed: bool  # by a person who speaks it and works in a clinic
    title: str
    progress: str
    script: str  # for browsers without JavaScript
    picture: str  # what a screen reader calls the drawing area
    classes: str
    background: str
    tools: str
    polygon: str
    brush: str
    eraser: str
    move: str
    size: str
    undo: str
    redo: str
    propose: str
    hide: str
    contrast: str
    zoom_in: str
    zoom_out: str
    whole: str
    back: str
    on: str
    done: str
    hints: tuple[str, ...]
    states: tuple[str, str, str]  # not begun, draft, done
    open_line: str  # an outline that is not closed yet
    busy: str
    proposed: str
    uncertain: str
    unlike: str
    refused: str
    unsaved: str
    not_saved: str
    all: str
    all_title: str
    stop: str
    broken: str
    unread: tuple[str, str]
    all_done: str
    rest: tuple[str, str]
    ended: str
    ended_how: str
    problem_columns: tuple[str, str, str]
    unreviewed: str
    slice: str = ""  # from here on: of volumes
    higher: str = ""
    lower: str = ""
    between: str = ""
    suggested: str = ""
    alone: str = ""


OUTLINE = {
    "en": OutlineTexts(
        reviewed=True,
        title="Picture {number} of {total}",
        progress="{done} of {total} are done.",
        script="Drawing needs JavaScript, which this browser does not run. Allow it for this page, and load it again.",
        picture="The picture to outline. Arrow keys move the cross, Space sets a point, Enter closes the outline.",
        classes="Class",
        background="Background",
        tools="Tool",
        polygon="Outline",
        brush="Brush",
        eraser="Eraser",
        move="Move",
        size="Brush size",
        undo="Undo",
        redo="Redo",
        propose="Propose",
        hide="Hide",
        contrast="Contrast",
        zoom_in="Zoom in",
        zoom_out="Zoom out",
        whole="Whole picture",
        back="Back",
        on="Next",
        done="Done",
        hints=(
            "Outline: click points, and the first one again to close. Or draw around it with the button held down.",
            "The wheel zooms. The middle button moves the picture, the right one changes brightness and contrast.",
            "Without a mouse: arrow keys move the cross, with Shift by ten. Space sets a point, or lowers and "
            "lifts the "
            "brush. Enter closes, Backspace takes the last point back, Escape drops the outline.",
            "Each change is saved at once, as a draft. Press Done when the picture is complete, also if it shows "
            "nothing.",
        ),
        states=("not begun", "draft", "done"),
        open_line="Close the outline first: Enter closes it, Escape drops it.",
        busy="The model draws ...",
        proposed="Proposed by the model. Correct it before you press Done.",
        uncertain="Proposed by the model, which is uncertain here: {share} of what it outlines. Look closely.",
        unlike="The model knows no such pictures: this one is {times} times as far away as its limit.",
        refused="The model cannot draw here: {cause}. What to do: {remedy}.",
        unsaved="Not saved yet: the program does not answer. Keep this page open.",
        not_saved="Not saved yet: {cause}. Keep this page open: it tries again until that is mended.",
        all="All pictures",
        all_title="All pictures, page {number} of {total}",
        stop="Stop for now",
        broken="This picture cannot be outlined: {cause}. What to do: {remedy}.",
        unread=("file cannot be used", "files cannot be used"),
        all_done="Every picture is done",
        rest=("picture is not done yet", "pictures are not done yet"),
        ended="Everything is saved",
        ended_how="You may close this page. To continue, run the same command again.",
        problem_columns=("file", "why", "what to do"),
        unreviewed="",
    ),
    "fr": OutlineTexts(
        reviewed=False,
        title="Image {number} sur {total}",
        progress="{done} sur {total} sont terminées.",
        script=(
            "Le dessin a besoin de JavaScript, que ce navigateur n'exécute pas. Autorisez-le, puis rechargez la page."
        ),
        picture="L'image à délimiter. Les flèches déplacent la croix, Espace pose un point, Entrée ferme le contour.",
        classes="Classe",
        background="Fond",
        tools="Outil",
        polygon="Contour",
        brush="Pinceau",
        eraser="Gomme",
        move="Déplacer",
        size="Taille du pinceau",
        undo="Annuler",
        redo="Rétablir",
        propose="Proposer",
        hide="Masquer",
        contrast="Contraste",
        zoom_in="Agrandir",
        zoom_out="Réduire",
        whole="Image entière",
        back="Retour",
        on="Suivante",
        done="Terminé",
        hints=(
            "Contour : cliquez des points, puis de nouveau le premier pour fermer. Ou tracez autour, bouton enfoncé.",
            "La molette agrandit. Le bouton du milieu déplace l'image, le bouton droit change luminosité et contraste.",
            "Sans souris : les flèches déplacent la croix, avec Maj de dix. Espace pose un point, ou baisse et lève le "
            "pinceau. Entrée ferme, Retour arrière reprend le dernier point, Échap abandonne le contour.",
            "Chaque changement est enregistré aussitôt, comme brouillon. Appuyez sur Terminé quand l'image est "
            "complète, "
            "même si elle ne montre rien.",
        ),
        states=("pas commencée", "brouillon", "terminée"),
        open_line="Fermez d'abord le contour : Entrée le ferme, Échap l'abandonne.",
        busy="Le modèle dessine ...",
        proposed="Proposé par le modèle. Corrigez avant d'appuyer sur Terminé.",
        uncertain="Proposé par le modèle, incertain ici : {share} de ce qu'il délimite. Regardez de près.",
        unlike="Le modèle ne connaît pas de telles images : celle-ci est à {times} fois la distance permise.",
        refused="Le modèle ne peut pas dessiner ici : {cause}. Que faire : {remedy}.",
        unsaved="Pas encore enregistré : le programme ne répond pas. Gardez cette page ouverte.",
        not_saved="Pas encore enregistré : {cause}. Gardez cette page ouverte : elle réessaie jusqu'à la réparation.",
        all="Toutes les images",
        all_title="Toutes les images, page {number} sur {total}",
        stop="Arrêter pour l'instant",
        broken="Cette image ne peut pas être délimitée : {cause}. Que faire : {remedy}.",
        unread=("fichier ne peut pas être utilisé", "fichiers ne peuvent pas être utilisés"),
        all_done="Chaque image est terminée",
        rest=("image n'est pas encore terminée", "images ne sont pas encore terminées"),
        ended="Tout est enregistré",
        ended_how="Vous pouvez fermer cette page. Pour continuer, lancez la même commande.",
        problem_columns=("fichier", "pourquoi", "que faire"),
        unreviewed="Cette traduction n'a pas encore été relue. En cas de doute, la version anglaise fait foi.",
    ),
    "es": OutlineTexts(
        reviewed=False,
        title="Imagen {number} de {total}",
        progress="{done} de {total} están terminadas.",
        script=(
            "Dibujar necesita JavaScript, que este navegador no ejecuta. Permítalo para esta página y "
            "cárguela de nuevo."
        ),
        picture="La imagen a delimitar. Las flechas mueven la cruz, Espacio pone un punto, Intro cierra el contorno.",
        classes="Clase",
        background="Fondo",
        tools="Herramienta",
        polygon="Contorno",
        brush="Pincel",
        eraser="Goma",
        move="Mover",
        size="Tamaño del pincel",
        undo="Deshacer",
        redo="Rehacer",
        propose="Proponer",
        hide="Ocultar",
        contrast="Contraste",
        zoom_in="Ampliar",
        zoom_out="Reducir",
        whole="Imagen entera",
        back="Atrás",
        on="Siguiente",
        done="Terminada",
        hints=(
            "Contorno: haga clic en puntos, y otra vez en el primero para cerrar. O trace alrededor con el botón "
            "pulsado.",
            "La rueda amplía. El botón central mueve la imagen, el derecho cambia brillo y contraste.",
            "Sin ratón: las flechas mueven la cruz, con Mayús de diez en diez. Espacio pone un punto, o baja y "
            "levanta el "
            "pincel. Intro cierra, Retroceso quita el último punto, Escape abandona el contorno.",
            "Cada cambio se guarda al instante, como borrador. Pulse Terminada cuando la imagen esté completa, "
            "también si "
            "no muestra nada.",
        ),
        states=("no empezada", "borrador", "terminada"),
        open_line="Cierre primero el contorno: Intro lo cierra, Escape lo abandona.",
        busy="El modelo dibuja ...",
        proposed="Propuesto por el modelo. Corríjalo antes de pulsar Terminada.",
        uncertain="Propuesto por el modelo, que aquí duda: {share} de lo que delimita. Mire con atención.",
        unlike="El modelo no conoce imágenes así: esta está a {times} veces la distancia permitida.",
        refused="El modelo no puede dibujar aquí: {cause}. Qué hacer: {remedy}.",
        unsaved="Aún no guardado: el programa no responde. Deje esta página abierta.",
        not_saved="Aún no guardado: {cause}. Deje esta página abierta: lo intenta de nuevo hasta que se arregle.",
        all="Todas las imágenes",
        all_title="Todas las imágenes, página {number} de {total}",
        stop="Parar por ahora",
        broken="Esta imagen no se puede delimitar: {cause}. Qué hacer: {remedy}.",
        unread=("archivo no se puede usar", "archivos no se pueden usar"),
        all_done="Cada imagen está terminada",
        rest=("imagen aún no está terminada", "imágenes aún no están terminadas"),
        ended="Todo está guardado",
        ended_how="Puede cerrar esta página. Para continuar, ejecute la misma orden.",
        problem_columns=("archivo", "por qué", "qué hacer"),
        unreviewed="Esta traducción aún no ha sido revisada. En caso de duda vale la versión inglesa.",
    ),
    "pt": OutlineTexts(
        reviewed=False,
        title="Imagem {number} de {total}",
        progress="{done} de {total} estão prontas.",
        script=(
            "Desenhar precisa de JavaScript, que este navegador não executa. Permita-o nesta página e "
            "carregue-a de novo."
        ),
        picture="A imagem a contornar. As setas movem a cruz, Espaço põe um ponto, Enter fecha o contorno.",
        classes="Classe",
        background="Fundo",
        tools="Ferramenta",
        polygon="Contorno",
        brush="Pincel",
        eraser="Borracha",
        move="Mover",
        size="Tamanho do pincel",
        undo="Anular",
        redo="Refazer",
        propose="Propor",
        hide="Ocultar",
        contrast="Contraste",
        zoom_in="Ampliar",
        zoom_out="Reduzir",
        whole="Imagem inteira",
        back="Atrás",
        on="Seguinte",
        done="Pronta",
        hints=(
            "Contorno: clique em pontos, e de novo no primeiro para fechar. Ou desenhe à volta com o botão premido.",
            "A roda amplia. O botão do meio move a imagem, o direito muda brilho e contraste.",
            "Sem rato: as setas movem a cruz, com Shift de dez em dez. Espaço põe um ponto, ou baixa e levanta o "
            "pincel. "
            "Enter fecha, Retrocesso tira o último ponto, Escape abandona o contorno.",
            "Cada mudança é guardada de imediato, como rascunho. Prima Pronta quando a imagem estiver completa, "
            "também se "
            "nada mostrar.",
        ),
        states=("não começada", "rascunho", "pronta"),
        open_line="Feche primeiro o contorno: Enter fecha-o, Escape abandona-o.",
        busy="O modelo desenha ...",
        proposed="Proposto pelo modelo. Corrija antes de premir Pronta.",
        uncertain="Proposto pelo modelo, que aqui está incerto: {share} do que contorna. Olhe com atenção.",
        unlike="O modelo não conhece imagens assim: esta está a {times} vezes a distância permitida.",
        refused="O modelo não pode desenhar aqui: {cause}. O que fazer: {remedy}.",
        unsaved="Ainda não guardado: o programa não responde. Mantenha esta página aberta.",
        not_saved="Ainda não guardado: {cause}. Mantenha esta página aberta: ela tenta de novo até que se resolva.",
        all="Todas as imagens",
        all_title="Todas as imagens, página {number} de {total}",
        stop="Parar por agora",
        broken="Esta imagem não pode ser contornada: {cause}. O que fazer: {remedy}.",
        unread=("ficheiro não pode ser usado", "ficheiros não podem ser usados"),
        all_done="Cada imagem está pronta",
        rest=("imagem ainda não está pronta", "imagens ainda não estão prontas"),
        ended="Tudo está guardado",
        ended_how="Pode fechar esta página. Para continuar, execute o mesmo comando.",
        problem_columns=("ficheiro", "porquê", "o que fazer"),
        unreviewed="Esta tradução ainda não foi revista. Em caso de dúvida vale a versão inglesa.",
    ),
    "sw": OutlineTexts(
        reviewed=False,
        title="Picha {number} kati ya {total}",
        progress="{done} kati ya {total} zimekamilika.",
        script="Kuchora kunahitaji JavaScript, ambayo kivinjari hiki hakiiendeshi. Iruhusu, kisha pakia ukurasa tena.",
        picture="Picha ya kuchorea mpaka. Mishale husogeza msalaba, Space huweka nukta, Enter hufunga mpaka.",
        classes="Kundi",
        background="Mandharinyuma",
        tools="Kifaa",
        polygon="Mpaka",
        brush="Brashi",
        eraser="Kifutio",
        move="Sogeza",
        size="Ukubwa wa brashi",
        undo="Tengua",
        redo="Rudia",
        propose="Pendekeza",
        hide="Ficha",
        contrast="Tofauti",
        zoom_in="Kuza",
        zoom_out="Punguza",
        whole="Picha nzima",
        back="Rudi",
        on="Inayofuata",
        done="Imekamilika",
        hints=(
            "Mpaka: bofya nukta, kisha ya kwanza tena ili kufunga. Au chora kuzunguka huku ukishikilia kitufe.",
            "Gurudumu hukuza. Kitufe cha kati husogeza picha, cha kulia hubadilisha mwangaza na tofauti.",
            "Bila kipanya: mishale husogeza msalaba, na Shift mara kumi. Space huweka nukta, au hushusha na "
            "kuinua brashi. "
            "Enter hufunga, Backspace huondoa nukta ya mwisho, Escape huacha mpaka.",
            "Kila badiliko huhifadhiwa mara moja, kama rasimu. Bonyeza Imekamilika picha ikikamilika, hata kama "
            "haionyeshi "
            "kitu.",
        ),
        states=("haijaanzwa", "rasimu", "imekamilika"),
        open_line="Funga mpaka kwanza: Enter huufunga, Escape huuacha.",
        busy="Modeli inachora ...",
        proposed="Imependekezwa na modeli. Sahihisha kabla ya kubonyeza Imekamilika.",
        uncertain="Imependekezwa na modeli, ambayo hapa haina uhakika: {share} ya ilichochora. Angalia kwa makini.",
        unlike="Modeli haijui picha kama hii: iko mbali mara {times} ya umbali unaoruhusiwa.",
        refused="Modeli haiwezi kuchora hapa: {cause}. La kufanya: {remedy}.",
        unsaved="Bado haijahifadhiwa: programu haijibu. Acha ukurasa huu wazi.",
        not_saved="Bado haijahifadhiwa: {cause}. Acha ukurasa huu wazi: unajaribu tena hadi irekebishwe.",
        all="Picha zote",
        all_title="Picha zote, ukurasa {number} kati ya {total}",
        stop="Simama kwa sasa",
        broken="Picha hii haiwezi kuchorwa mpaka: {cause}. La kufanya: {remedy}.",
        unread=("faili haiwezi kutumika", "faili haziwezi kutumika"),
        all_done="Kila picha imekamilika",
        rest=("picha bado haijakamilika", "picha bado hazijakamilika"),
        ended="Kila kitu kimehifadhiwa",
        ended_how="Unaweza kufunga ukurasa huu. Kuendelea, tumia amri ileile.",
        problem_columns=("faili", "kwa nini", "la kufanya"),
        unreviewed="Tafsiri hii bado haijakaguliwa. Ukiwa na shaka, fuata Kiingereza.",
    ),
}

# what the page says of volumes in place of pictures, and of their slices
_VOLUMES: Mapping[str, Mapping[str, Any]] = {
    "en": {
        "title": "Volume {number} of {total}",
        "picture": "The slice to outline. Arrow keys move the cross, Space sets a point, Enter closes the outline.",
        "whole": "Whole slice",
        "hints": (
            "Outline: click points, and the first one again to close. Or draw around it with the button held down.",
            "The wheel and the keys , and . show other slices; with Ctrl the wheel zooms. The middle button moves the "
            "slice, the right one changes brightness and contrast. Contrast changes the window of a CT.",
            "Without a mouse: arrow keys move the cross, with Shift by ten. Space sets a point, or lowers and lifts "
            "the brush. Enter closes, Backspace takes the last point back, Escape drops the outline.",
            "Draw some slices. On one between them, As the neighbours draws what lies between the nearest two.",
            "Each change is saved at once, as a draft. Press Done when all slices of the volume are complete.",
        ),
        "unlike": "The model knows no such volumes: this one is {times} times as far away as its limit.",
        "all": "All volumes",
        "all_title": "All volumes, page {number} of {total}",
        "broken": "This volume cannot be outlined: {cause}. What to do: {remedy}.",
        "all_done": "Every volume is done",
        "rest": ("volume is not done yet", "volumes are not done yet"),
        "slice": "Slice {number} of {count}",
        "higher": "Slice up",
        "lower": "Slice down",
        "between": "As the neighbours",
        "suggested": "Drawn from the nearest drawn slices. Correct it.",
        "alone": "No other slice of this volume is drawn yet.",
    },
    "fr": {
        "title": "Volume {number} sur {total}",
        "progress": "{done} sur {total} sont terminés.",
        "states": ("pas commencé", "brouillon", "terminé"),
        "picture": "La coupe à délimiter. Les flèches déplacent la croix, Espace pose un point, Entrée ferme.",
        "whole": "Coupe entière",
        "hints": (
            "Contour : cliquez des points, puis de nouveau le premier pour fermer. Ou tracez autour, bouton enfoncé.",
            "La molette et les touches , et . montrent d'autres coupes ; avec Ctrl la molette agrandit. Le bouton du "
            "milieu déplace la coupe, le bouton droit change luminosité et contraste. Contraste change la fenêtre "
            "d'un scanner.",
            "Sans souris : les flèches déplacent la croix, avec Maj de dix. Espace pose un point, ou baisse et lève le "
            "pinceau. Entrée ferme, Retour arrière reprend le dernier point, Échap abandonne le contour.",
            "Dessinez quelques coupes. Sur une coupe entre elles, Comme les voisines dessine ce qui est entre les deux "
            "plus proches.",
            "Chaque changement est enregistré aussitôt, comme brouillon. Appuyez sur Terminé quand toutes les coupes "
            "du volume sont complètes.",
        ),
        "unlike": "Le modèle ne connaît pas de tels volumes : celui-ci est à {times} fois la distance permise.",
        "all": "Tous les volumes",
        "all_title": "Tous les volumes, page {number} sur {total}",
        "broken": "Ce volume ne peut pas être délimité : {cause}. Que faire : {remedy}.",
        "all_done": "Chaque volume est terminé",
        "rest": ("volume n'est pas encore terminé", "volumes ne sont pas encore terminés"),
        "slice": "Coupe {number} sur {count}",
        "higher": "Coupe plus haute",
        "lower": "Coupe plus basse",
        "between": "Comme les voisines",
        "suggested": "Dessiné d'après les coupes dessinées les plus proches. Corrigez.",
        "alone": "Aucune autre coupe de ce volume n'est encore dessinée.",
    },
    "es": {
        "title": "Volumen {number} de {total}",
        "progress": "{done} de {total} están terminados.",
        "states": ("sin empezar", "borrador", "terminado"),
        "picture": "El corte que delimitar. Las flechas mueven la cruz, Espacio pone un punto, Intro cierra.",
        "whole": "Corte entero",
        "hints": (
            "Contorno: haga clic en puntos, y de nuevo en el primero para cerrar. O dibuje alrededor con el botón "
            "pulsado.",
            "La rueda y las teclas , y . muestran otros cortes; con Ctrl la rueda amplía. El botón central mueve el "
            "corte, el derecho cambia brillo y contraste. Contraste cambia la ventana de una TC.",
            "Sin ratón: las flechas mueven la cruz, con Mayús de diez en diez. Espacio pone un punto, o baja y levanta "
            "el pincel. Intro cierra, Retroceso quita el último punto, Escape abandona el contorno.",
            "Dibuje algunos cortes. En uno entre ellos, Como los vecinos dibuja lo que hay entre los dos más cercanos.",
            "Cada cambio se guarda enseguida, como borrador. Pulse Terminada cuando todos los cortes del volumen estén "
            "completos.",
        ),
        "unlike": "El modelo no conoce volúmenes así: este está a {times} veces la distancia permitida.",
        "all": "Todos los volúmenes",
        "all_title": "Todos los volúmenes, página {number} de {total}",
        "broken": "Este volumen no se puede delimitar: {cause}. Qué hacer: {remedy}.",
        "all_done": "Todos los volúmenes están terminados",
        "rest": ("volumen aún no está terminado", "volúmenes aún no están terminados"),
        "slice": "Corte {number} de {count}",
        "higher": "Corte más alto",
        "lower": "Corte más bajo",
        "between": "Como los vecinos",
        "suggested": "Dibujado según los cortes dibujados más cercanos. Corríjalo.",
        "alone": "Ningún otro corte de este volumen está dibujado aún.",
    },
    "pt": {
        "title": "Volume {number} de {total}",
        "progress": "{done} de {total} estão prontos.",
        "states": ("por começar", "rascunho", "pronto"),
        "picture": "O corte a delimitar. As setas movem a cruz, Espaço põe um ponto, Enter fecha o contorno.",
        "whole": "Corte inteiro",
        "hints": (
            "Contorno: clique em pontos, e de novo no primeiro para fechar. Ou desenhe em volta com o botão "
            "pressionado.",
            "A roda e as teclas , e . mostram outros cortes; com Ctrl a roda amplia. O botão do meio move o corte, o "
            "direito muda brilho e contraste. Contraste muda a janela de uma TC.",
            "Sem rato: as setas movem a cruz, com Shift de dez em dez. Espaço põe um ponto, ou baixa e levanta o "
            "pincel. Enter fecha, Backspace retira o último ponto, Escape abandona o contorno.",
            "Desenhe alguns cortes. Num entre eles, Como os vizinhos desenha o que há entre os dois mais próximos.",
            "Cada mudança é guardada logo, como rascunho. Prima Pronta quando todos os cortes do volume estiverem "
            "completos.",
        ),
        "unlike": "O modelo não conhece volumes assim: este está a {times} vezes a distância permitida.",
        "all": "Todos os volumes",
        "all_title": "Todos os volumes, página {number} de {total}",
        "broken": "Este volume não pode ser delimitado: {cause}. O que fazer: {remedy}.",
        "all_done": "Todos os volumes estão prontos",
        "rest": ("volume ainda não está pronto", "volumes ainda não estão prontos"),
        "slice": "Corte {number} de {count}",
        "higher": "Corte mais alto",
        "lower": "Corte mais baixo",
        "between": "Como os vizinhos",
        "suggested": "Desenhado segundo os cortes desenhados mais próximos. Corrija.",
        "alone": "Nenhum outro corte deste volume está desenhado ainda.",
    },
    "sw": {
        "title": "Ujazo {number} kati ya {total}",
        "progress": "{done} kati ya {total} umekamilika.",
        "picture": "Kipande cha kuchorea mpaka. Mishale husogeza msalaba, Space huweka nukta, Enter hufunga mpaka.",
        "whole": "Kipande chote",
        "hints": (
            "Mpaka: bofya nukta, kisha ile ya kwanza tena ili kufunga. Au chora kuzunguka huku kitufe kimebanwa.",
            "Gurudumu na vitufe , na . huonyesha vipande vingine; pamoja na Ctrl gurudumu hukuza. Kitufe cha kati "
            "husogeza kipande, cha kulia hubadilisha mwanga. Tofauti hubadilisha dirisha la CT.",
            "Bila kipanya: mishale husogeza msalaba, pamoja na Shift kwa kumi. Space huweka nukta, au hushusha na "
            "kuinua brashi. Enter hufunga, Backspace huondoa nukta ya mwisho, Escape huacha mpaka.",
            "Chora vipande vichache. Kwenye kipande kati yao, Kama majirani huchora kilicho kati ya viwili vya karibu.",
            "Kila badiliko huhifadhiwa mara moja, kama rasimu. Bonyeza Imekamilika vipande vyote vikikamilika.",
        ),
        "unlike": "Modeli haijui ujazo kama huu: huu uko mbali mara {times} ya kikomo chake.",
        "all": "Ujazo wote",
        "all_title": "Ujazo wote, ukurasa {number} kati ya {total}",
        "broken": "Ujazo huu hauwezi kuchorewa mpaka: {cause}. La kufanya: {remedy}.",
        "all_done": "Kila ujazo umekamilika",
        "rest": ("ujazo haujakamilika bado", "ujazo haujakamilika bado"),
        "slice": "Kipande {number} kati ya {count}",
        "higher": "Kipande cha juu",
        "lower": "Kipande cha chini",
        "between": "Kama majirani",
        "suggested": "Kimechorwa kufuata vipande vya karibu vilivyochorwa. Kisahihishe.",
        "alone": "Hakuna kipande kingine cha ujazo huu kilichochorwa bado.",
    },
}


def of(lang: str, *, has_slices: bool) -> OutlineTexts:
    """The texts in one language, for pictures or for volumes."""
    return replace(OUTLINE[lang], **_VOLUMES[lang]) if has_slices else OUTLINE[lang]
