"""Phrasings of the Meta-World tasks for tests alone: no data set holds them, so no policy trains on them."""

PARAPHRASES: dict[str, tuple[str, str]] = {
    "assembly": ("fit the wrench's eye over the post", "mount the nut on the peg that stands up"),
    "basketball": (
        "shoot the ball into the hoop",
        "make a basket: lift the ball over the rim and let it fall through",
    ),
    "bin-picking": (
        "transfer the block to the bin on the right",
        "empty the left bin by carrying its cube to the other one",
    ),
    "box-close": ("cover the box", "place the top back onto the container"),
    "button-press": ("poke the button in front of you", "drive the front button into its box"),
    "button-press-topdown": ("squash the button from overhead", "press straight down on the top button"),
    "button-press-topdown-wall": (
        "pass the wall and squash the button from overhead",
        "press straight down on the button at the far side of the barrier",
    ),
    "button-press-wall": (
        "poke the button that sits behind the wall",
        "drive the front button in despite the barrier",
    ),
    "coffee-button": ("make a coffee by pushing the machine's switch", "turn the coffee maker on"),
    "coffee-pull": ("retrieve the cup from the coffee maker", "bring the mug here, out of the machine"),
    "coffee-push": ("shove the cup beneath the coffee maker", "put the mug where the coffee comes out"),
    "dial-turn": ("spin the round knob", "give the dial half a turn"),
    "disassemble": ("pull the nut up until it leaves the peg", "unmount the wrench's eye from the post"),
    "door-close": ("slam the door", "make sure the door is no longer ajar"),
    "door-lock": ("bolt the door", "turn the door's lock so that it cannot be opened"),
    "door-open": ("let someone in through the door", "draw the door wide by its handle"),
    "door-unlock": ("unbolt the door", "turn the door's lock so that it can be opened"),
    "drawer-close": ("put the drawer back in", "slide the drawer home"),
    "drawer-open": ("pull out the drawer", "make the inside of the drawer reachable"),
    "faucet-close": ("shut off the water", "close the valve by moving its lever to the left"),
    "faucet-open": ("start the water flowing", "open the valve by moving its lever to the right"),
    "hammer": ("knock the nail into the wood with the tool", "use the hammer on the nail"),
    "hand-insert": (
        "bury the block in the hole below the table top",
        "reach down into the pit with the cube in hand",
    ),
    "handle-press": ("force the bar in front of you down", "make the front handle go to the floor"),
    "handle-press-side": ("force the bar on the left down", "make the sideways handle go to the floor"),
    "handle-pull": ("heave the front bar upwards", "bring the handle in front of you to the top"),
    "handle-pull-side": ("heave the bar on the left upwards", "bring the sideways handle to the top"),
    "lever-pull": ("flip the lever up", "tilt the arm of the lever until it stands"),
    "peg-insert-side": (
        "push the rod into the hole at the box's side",
        "thread the peg from the right into the box",
    ),
    "peg-unplug-side": ("extract the rod from the box's side", "tear the peg out to the right"),
    "pick-out-of-hole": ("rescue the puck from the pit", "fish the puck out of its hole"),
    "pick-place": (
        "raise the puck off the table to the marked point",
        "grab the puck and take it to the target in the air",
    ),
    "pick-place-wall": (
        "grab the puck and take it across the barrier",
        "raise the puck over the wall to the marked point",
    ),
    "plate-slide": ("send the plate straight ahead into the goal", "glide the dish to the cabinet in front"),
    "plate-slide-back": ("haul the plate back from the far net", "make the dish come nearer along the table"),
    "plate-slide-back-side": (
        "haul the plate rightwards out of the net",
        "take the dish away from the left side",
    ),
    "plate-slide-side": (
        "send the plate leftwards into the goal",
        "glide the dish to the cabinet at the left",
    ),
    "push": ("move the puck forward on the table top", "nudge the puck ahead to where the target is"),
    "push-back": ("move the puck backwards on the table top", "get the puck to come back to the near target"),
    "push-wall": (
        "nudge the puck past the wall to the target",
        "move the puck on the table around the barrier",
    ),
    "reach": ("touch the target point with an empty hand", "go to the goal and take nothing along"),
    "reach-wall": (
        "touch the target behind the wall with an empty hand",
        "go around the barrier to the goal and carry nothing",
    ),
    "shelf-place": ("put the cube up on the board", "set the block down on the shelf"),
    "soccer": ("shoot at the goal", "get the ball past the goal line"),
    "stick-pull": (
        "drag the bottle here with the help of the stick",
        "use the stick as a hook to pull the thermos",
    ),
    "stick-push": ("use the stick to move the bottle away", "poke the thermos along with the stick"),
    "sweep": ("brush the block off the table's right edge", "make the cube fall off the side"),
    "sweep-into": ("make the block fall into the hole", "sweep the cube away from you until it drops in"),
    "window-close": ("pull the window shut", "shift the pane to the left until it is closed"),
    "window-open": ("let fresh air in through the window", "shift the pane to the right until it is open"),
}
"""Two of each task."""
