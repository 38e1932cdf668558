"""The model, its data, and how it is trained and tested."""

from functools import cache

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

TEST_IMAGES = 297


class Net(nn.Module):
    """Two layers for 8 x 8 images of digits."""

    def __init__(self):
        super().__init__()
        self.fc1 = nn.Linear(64, 32)
        self.fc2 = nn.Linear(32, 10)

    def forward(self, x):
        return self.fc2(torch.relu(self.fc1(x)))


@cache  # read the data set once in a process
def load_dataset():
    """All images and labels, in an order that is the same everywhere."""
    images, labels = load_digits(return_X_y=True)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    return torch.tensor(images, dtype=torch.float32)[order] / 16, torch.tensor(labels)[order]


def load_images(start, stop, step=1):
    """Every step-th digit from start to stop."""
    images, labels = load_dataset()
    return TensorDataset(images[start:stop:step], labels[start:stop:step])


def load_data(partition_id, num_partitions, batch_size):
    """The training images of one partition."""
    dataset = load_images(TEST_IMAGES + partition_id, None, num_partitions)
    return DataLoader(dataset, batch_size=batch_size, shuffle=True)


def load_centralized_dataset():
    """The images that no partition holds."""
    return DataLoader(load_images(0, TEST_IMAGES), batch_size=128)


def train(net, trainloader, epochs, lr, device):
    """Train the model on the training set; return its mean loss."""
    net.to(device).train()
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(net.parameters(), lr=lr, momentum=0.9)
    running_loss = 0.0
    for _ in range(epochs):
        for images, labels in trainloader:
            optimizer.zero_grad()
            loss = criterion(net(images.to(device)), labels.to(device))
            loss.backward()
            optimizer.step()
            running_loss += loss.item()
    return running_loss / (epochs * len(trainloader))


def test(net, testloader, device):
    """Mean loss and accuracy on a test set."""
    net.to(device).eval()
    criterion = nn.CrossEntropyLoss(reduction="sum")
    correct, loss = 0, 0.0
    with torch.no_grad():
        for images, labels in testloader:
            outputs = net(images.to(device))
            loss += criterion(outputs, labels.to(device)).item()
            correct += (outputs.argmax(dim=1) == labels.to(device)).sum().item()
    return loss / len(testloader.dataset), correct / len(testloader.dataset)
