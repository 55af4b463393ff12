from trainees import rows, training

from federated.neural.history import History, Point
from sandbox import training as t


def test_learning_curves_are_drawn(city):
    made = training(rounds=6, local_steps=3, validation=t.Validation(0.3, every=2))
    history = city(made, [rows(100, 1), rows(50, 2), rows(70, 3)]).run().history
    figure = history.plot()
    assert [axis.get_title() for axis in figure.axes] == ["validation loss", "validation accuracy"]
    drawn = figure.axes[0].lines[0].get_xydata().tolist()
    assert [x for x, _ in drawn] == [0, 2, 4, 6]
    assert [y for _, y in drawn] == [point.loss for point in history.points if point.loss is not None]
    assert figure.axes[0].lines[1].get_xdata()[0] == history.best
    assert history.frame()["round"].tolist() == list(range(7))


def test_without_a_metric_the_joint_updates_are_drawn():
    figure = History((Point(0, 3, size=1.0), Point(1, 3, size=0.5))).plot()
    assert [axis.get_title() for axis in figure.axes] == ["norm of the joint update"]
    assert figure.axes[0].lines[0].get_ydata().tolist() == [1.0, 0.5]
